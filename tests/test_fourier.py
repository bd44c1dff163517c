"""Planted frequencies, white noise, and waves in their bands."""

import math

import numpy as np
import pytest
import torch

from sounding.fourier import band_of, cyclic_powers, effective_number, frequencies, gini


def planted(p: int, found: tuple[int, ...], dimensions: int = 40) -> torch.Tensor:
    """An embedding of circles: a cosine and a sine of each frequency, of one radius, turned at random."""
    angles = 2 * math.pi * torch.arange(p, dtype=torch.float64)[:, None] * torch.tensor(found) / p
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(dimensions, dimensions, dtype=torch.float64, generator=generator))[0]
    return waves @ turn[: waves.shape[1]] + 5.0


def test_three_planted_frequencies_are_three():
    shares = cyclic_powers(planted(113, (4, 17, 50)))
    assert effective_number(shares) == pytest.approx(3.0)
    assert gini(shares) == pytest.approx(1 - 3 / 56)
    assert np.flatnonzero(shares > 1e-9).tolist() == [3, 16, 49]
    assert shares.sum() == pytest.approx(1.0)


def test_white_noise_has_nearly_all_of_them():
    noise = torch.randn(113, 128, generator=torch.Generator().manual_seed(0))
    shares = cyclic_powers(noise)
    assert 54 < effective_number(shares) <= 56
    assert gini(shares) < 0.1


def test_the_highest_frequency_of_an_even_vocabulary_counts_once():
    # One-hot tokens hold every frequency of both signs alike; p/2 is its own negative.
    shares = cyclic_powers(torch.eye(8))
    np.testing.assert_allclose(shares, np.array([2, 2, 2, 1]) / 7)
    assert np.isnan(cyclic_powers(torch.full((7, 3), 0.3))).all()


def test_gini_of_known_shares():
    assert gini(np.ones(7)) == pytest.approx(0.0)
    assert gini(np.array([0.0, 0.0, 0.0, 2.0])) == pytest.approx(0.75)
    # Mean absolute difference over twice the mean: |1-3| twice among 4 pairs, mean 2.
    assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10)])
def test_a_wave_lies_in_the_band_of_its_frequency(height: int, width: int):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = torch.cos(2 * math.pi * (2 * rows / height - 3 * columns / width) + 0.3)[None, None]
    np.testing.assert_allclose(band_of(wave, 5, 6), wave, atol=1e-5)
    assert float(band_of(wave, 0, 5).abs().max()) < 1e-5
    assert float(band_of(wave, 6, 99).abs().max()) < 1e-5
    assert int(frequencies(height, width)[2, -3]) == 5


def test_bands_add_up_to_the_image():
    images = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    total = sum(band_of(images, low, high) for low, high in ((0, 1), (1, 4), (4, 8)))
    np.testing.assert_allclose(total, images, atol=1e-5)
    np.testing.assert_allclose(band_of(images, 0, 1), images.mean((2, 3), keepdim=True).expand_as(images), atol=1e-6)
