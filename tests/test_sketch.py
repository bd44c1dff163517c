"""Inner products of sketches against those of the vectors."""

import numpy as np
import pytest
import torch

from sounding.sketch import sketch


def vector(size: int, seed: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_inner_products_are_right_on_average_and_as_far_off_as_said():
    length, x, y = 64, vector(1000, 0), vector(1000, 1)
    y = y + 0.5 * x
    found = np.array([sketch([("w", x)], length, seed) @ sketch([("w", y)], length, seed) for seed in range(400)])
    norms = float(x.norm() * y.norm())
    assert found.mean() == pytest.approx(float(x @ y), abs=4 * found.std() / 20)
    assert found.std() < 1.1 * norms * np.sqrt(2 / length)


def test_sketches_are_linear():
    x, y = vector(200_001, 2), vector(200_001, 3)  # several chunks
    whole = sketch([("w", 2 * x - y)], 100)
    assert whole == pytest.approx(2 * sketch([("w", x)], 100) - sketch([("w", y)], 100))


def test_every_tensor_has_its_own_signs():
    x = vector(500, 4)
    both = sketch([("a", x), ("b", x)], 128)
    assert both == pytest.approx(sketch([("a", x)], 128) + sketch([("b", x)], 128))
    assert np.abs(sketch([("a", x)], 128) - sketch([("b", x)], 128)).max() > 0.1
    assert np.abs(sketch([("a", x)], 128, seed=1) - sketch([("a", x)], 128)).max() > 0.1


def test_columns_that_repeat_do_not_pile_up():
    repeated = torch.zeros(64, 256, dtype=torch.float64)
    repeated[:, 7] = 1.0  # a row of the sketch is as long as a row of the matrix
    squares = [float((sketch([("w", repeated)], 256, seed) ** 2).sum()) for seed in range(50)]
    assert np.mean(squares) == pytest.approx(64, rel=0.1)
    assert np.std(squares) < 64 * 0.25
