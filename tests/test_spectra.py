"""Spectra against random-matrix theory, planted answers and naive twins."""

import math

import numpy as np
import pytest
import torch

from sounding.spectra import (
    Bulk,
    bulk_of,
    effective_rank,
    fit_power_law,
    fit_small_power_law,
    gram_eigenvalues,
    marchenko_pastur_median,
    resolvable,
    top_eigenvalues,
)

MEAN_TRACY_WIDOM = -1.2065335745820


def noise(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (1100, 600), (1, 5), (5, 1)])
def test_eigenvalues_are_squared_singular_values(shape: tuple[int, int]):
    matrix = noise(*shape)
    exact = torch.linalg.svdvals(matrix).flip(0).square()
    assert gram_eigenvalues(matrix) == pytest.approx(exact.numpy(), rel=1e-9, abs=1e-12 * float(exact[-1]))
    single = gram_eigenvalues(matrix, torch.float32)
    assert single == pytest.approx(exact.numpy(), abs=1e-5 * float(exact[-1]))


def test_half_precision_is_measured_in_full():
    matrix = noise(64, 48).bfloat16()
    assert gram_eigenvalues(matrix) == pytest.approx(gram_eigenvalues(matrix.double()), rel=1e-12)


def test_a_matrix_of_low_rank_has_its_rank():
    matrix = (noise(200, 7) @ noise(7, 100, seed=1)).float()
    assert resolvable(gram_eigenvalues(matrix), 200, torch.finfo(torch.float32).eps).size == 7


@pytest.mark.parametrize("count", [1, 12])
def test_the_largest_alone_are_within_their_bounds(count: int):
    tail = 1.05 ** -torch.arange(300, dtype=torch.float64)
    left = torch.linalg.qr(noise(500, 300))[0]
    right = torch.linalg.qr(noise(300, 300, seed=2))[0]
    values, errors = top_eigenvalues((left * tail) @ right, count)
    exact = np.sort((tail**2).numpy())[-count:]
    assert np.all(np.abs(values - exact) <= errors + 1e-12)
    assert values == pytest.approx(exact, rel=1e-4)


def test_bounds_are_honest_where_nothing_converges():
    matrix = noise(400, 400)  # a bulk without gaps
    exact = gram_eigenvalues(matrix)
    values, errors = top_eigenvalues(matrix, 20, rounds=1)
    nearest = np.abs(values[:, None] - exact[None, :]).min(axis=1)
    assert np.all(nearest <= errors)
    assert errors.max() > 1.0  # and they say that it has not converged


def pareto(exponent: float, count: int, seed: int) -> np.ndarray:
    return np.sort((1 - np.random.default_rng(seed).random(count)) ** (-1 / (exponent - 1)))


@pytest.mark.parametrize("exponent", [2.0, 3.0, 4.5])
@pytest.mark.parametrize("seed", range(3))
def test_power_laws_are_recovered(exponent: float, seed: int):
    fit = fit_power_law(pareto(exponent, 4000, seed))
    assert fit is not None
    assert abs(fit.alpha - exponent) < 4 * fit.stderr
    assert fit.stderr == pytest.approx((fit.alpha - 1) / math.sqrt(fit.tail))
    assert fit.distance < 1.63 / math.sqrt(fit.tail)  # 1 % level of Kolmogorov's law


def test_the_tail_begins_where_the_law_begins():
    body = np.random.default_rng(3).uniform(0.1, 1.0, 3000)
    fit = fit_power_law(np.sort(np.concatenate([body, pareto(2.5, 3000, 4)])))
    assert fit is not None
    assert fit.xmin == pytest.approx(1.0, rel=0.1)
    assert abs(fit.alpha - 2.5) < 4 * fit.stderr


def exhaustive(values: np.ndarray) -> tuple[float, float, float]:
    """The smallest distance over every start, one after the other."""
    best = (math.inf, 0.0, 0.0)
    for start in range(values.size - 1):
        tail = values[start:]
        alpha = 1 + tail.size / np.log(tail / tail[0]).sum()
        fitted = 1 - (tail / tail[0]) ** (1 - alpha)
        distance = np.abs(fitted - np.arange(tail.size) / tail.size).max()
        best = min(best, (float(distance), float(alpha), float(tail[0])))
    return best


@pytest.mark.parametrize(
    "values",
    [
        *(pareto(2.2, size, size) for size in (2, 3, 9, 40, 500)),
        gram_eigenvalues(noise(300, 200)),
        np.sort(np.random.default_rng(0).lognormal(size=400)),
        np.sort(np.random.default_rng(1).integers(1, 9, 200).astype(float)),  # many are equal
    ],
    ids=["2", "3", "9", "40", "500", "bulk", "lognormal", "equal"],
)
def test_the_search_misses_no_better_start(values: np.ndarray):
    with np.errstate(divide="ignore", invalid="ignore"):
        distance, alpha, xmin = exhaustive(values)
    fit = fit_power_law(values)
    assert fit is not None
    assert fit.distance == pytest.approx(distance, rel=1e-9)
    assert (fit.alpha, fit.xmin) == pytest.approx((alpha, xmin), rel=1e-9)


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0, 2.0]])
def test_what_has_no_tail_is_not_fitted(values: list[float]):
    assert fit_power_law(np.array(values)) is None
    assert fit_small_power_law(np.array(values)) is None


def test_effective_ranks_of_known_spectra():
    assert effective_rank(np.ones(7)) == pytest.approx(7.0)
    assert effective_rank(np.array([0.0, 0.0, 5.0])) == pytest.approx(1.0)
    assert effective_rank(np.array([1.0, 3.0])) == pytest.approx(4 / 3**0.75)


def test_the_median_of_the_bulk_is_the_published_one():
    # Gavish and Donoho 2014: the threshold of a square matrix is 2.858 times the median singular value.
    assert 4 / math.sqrt(3) / math.sqrt(marchenko_pastur_median(1.0)) == pytest.approx(2.858, abs=5e-4)


@pytest.mark.parametrize(("rows", "columns"), [(800, 400), (300, 1200), (500, 500)])
def test_noise_is_all_bulk(rows: int, columns: int):
    bulk = bulk_of(gram_eigenvalues(noise(rows, columns) * 0.3), rows, columns)
    assert bulk.sigma == pytest.approx(0.3, rel=0.01)
    assert bulk.edge == pytest.approx(0.09 * (math.sqrt(rows) + math.sqrt(columns)) ** 2, rel=0.02)
    assert bulk == Bulk(bulk.sigma, bulk.edge, 0, 0.0)


def test_the_largest_of_noise_is_where_tracy_and_widom_put_it():
    rows, columns, draws = 200, 100, 60
    root = math.sqrt(rows - 1) + math.sqrt(columns)
    width = root * (1 / math.sqrt(rows - 1) + 1 / math.sqrt(columns)) ** (1 / 3)
    largest = [gram_eigenvalues(noise(rows, columns, seed))[-1] for seed in range(draws)]
    shifted = (np.array(largest) - root**2) / width
    assert shifted.mean() == pytest.approx(MEAN_TRACY_WIDOM, abs=4 * shifted.std() / math.sqrt(draws))
    assert shifted.std() == pytest.approx(math.sqrt(1.6078), rel=0.3)


def planted(rows: int, columns: int, strength: float, seed: int) -> np.ndarray:
    left, right = (torch.nn.functional.normalize(noise(n, 1, seed=seed + n), dim=0) for n in (rows, columns))
    return gram_eigenvalues(noise(rows, columns, seed) + strength * left @ right.T)


@pytest.mark.parametrize("strength", [30.0, 60.0])
def test_a_planted_direction_is_found_with_its_strength(strength: float):
    rows, columns, draws = 600, 300, 12
    spectra = [planted(rows, columns, strength, seed) for seed in range(draws)]
    bulks = [bulk_of(values, rows, columns) for values in spectra]
    assert [bulk.spikes for bulk in bulks] == [1] * draws
    found = np.array([bulk.strength for bulk in bulks])
    assert found.mean() == pytest.approx(strength, abs=4 * found.std() / math.sqrt(draws))
    assert found.std() < 2.0  # the planted direction meets noise of order 1
    image = (rows + strength**2) * (columns + strength**2) / strength**2
    assert np.mean([values[-1] for values in spectra]) == pytest.approx(image, rel=0.03)


def test_a_direction_weaker_than_the_noise_does_not_show():
    rows, columns = 1000, 500
    weak = 0.6 * (rows * columns) ** 0.25  # of the strength at which an outlier appears
    assert bulk_of(planted(rows, columns, weak, seed=0), rows, columns).spikes == 0
