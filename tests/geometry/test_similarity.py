"""Similarities against matrices of n × n written out, rotations, and what scipy makes of them."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import procrustes

from sounding.geometry.similarity import biased_cka, debiased_cka, procrustes_distance

Floats = NDArray[np.float64]


def representations(seed: int = 0, count: int = 40, d: int = 7, e: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, d, generator=generator)
    y = x[:, :e] @ torch.randn(e, e, generator=generator) + 0.5 * torch.randn(count, e, generator=generator)
    return x, y


def naive_hsic(k: Floats, el: Floats) -> float:
    """Song et al. 2012, equation 5, written out."""
    n = len(k)
    k, el = k - np.diag(np.diag(k)), el - np.diag(np.diag(el))
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ el @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ el) + middle - 2 / (n - 2) * one @ k @ el @ one) / (n * (n - 3)))


def naive_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    k, el = (rows.double().numpy() @ rows.double().numpy().T for rows in (x, y))
    return naive_hsic(k, el) / math.sqrt(naive_hsic(k, k) * naive_hsic(el, el))


def test_alignment_is_that_of_the_gram_matrices():
    x, y = representations()
    assert debiased_cka(x, y).value == pytest.approx(naive_cka(x, y), rel=1e-9)
    assert debiased_cka(x + 100.0, y - 7.0).value == pytest.approx(naive_cka(x, y), rel=1e-4)
    centred = [rows.double().numpy() - rows.double().numpy().mean(0) for rows in (x, y)]
    k, el = (rows @ rows.T for rows in centred)
    expected = np.sum(k * el) / (np.linalg.norm(k) * np.linalg.norm(el))
    assert biased_cka(x, y) == pytest.approx(expected, rel=1e-10)


def test_the_error_is_the_jackknife_of_the_definition():
    x, y = representations(count=50)
    keep = torch.arange(50) % 10
    left_out = np.array([naive_cka(x[keep != group], y[keep != group]) for group in range(10)])
    assert debiased_cka(x, y).stderr == pytest.approx(math.sqrt(0.9 * np.sum((left_out - left_out.mean()) ** 2)))
    assert math.isnan(debiased_cka(*representations(count=8)).stderr)


def test_the_error_is_about_the_spread_over_samples():
    found = [debiased_cka(*representations_of_one_pair(seed)) for seed in range(60)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.stderr for each in found]) == pytest.approx(spread, rel=0.35)


def representations_of_one_pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(100, 4, generator=generator)
    x = torch.cat([hidden, torch.randn(100, 2, generator=generator)], 1)
    return x, hidden[:, :3] + 0.7 * torch.randn(100, 3, generator=generator)


def test_rotations_and_scales_are_not_felt():
    x, y = representations()
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(3)))[0]
    assert debiased_cka(x, 3.0 * x @ turn).value == pytest.approx(1.0, abs=1e-6)
    assert procrustes_distance(x, 3.0 * x @ turn) == pytest.approx(0.0, abs=1e-6)
    assert debiased_cka(x @ turn, y).value == pytest.approx(debiased_cka(x, y).value, rel=1e-5)
    assert procrustes_distance(x @ turn, y) == pytest.approx(procrustes_distance(x, y), rel=1e-5)


def test_what_is_unrelated_is_about_zero_however_wide():
    generator = torch.Generator().manual_seed(5)
    found = [
        debiased_cka(torch.randn(60, 50, generator=generator), torch.randn(60, 80, generator=generator)).value
        for _ in range(30)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(30)
    assert min(found) < 0.0
    wide = biased_cka(torch.randn(60, 50, generator=generator), torch.randn(60, 80, generator=generator))
    assert wide > 0.5


def test_procrustes_is_scipys():
    x, y = representations(e=7)
    disparity = procrustes(x.double().numpy(), y.double().numpy())[2]
    nuclear = 1.0 - procrustes_distance(x, y) / 2.0
    assert 1.0 - nuclear**2 == pytest.approx(disparity, rel=1e-6)


def test_what_does_not_vary_is_like_nothing():
    x, _ = representations()
    still = torch.ones(40, 3)
    assert math.isnan(debiased_cka(x, still).value)
    assert math.isnan(biased_cka(x, still))
    assert math.isnan(procrustes_distance(x, still))
