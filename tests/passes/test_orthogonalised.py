"""Updates of orthogonalised momentum: closed forms, and the iteration applied to Gaussian matrices."""

import math

import numpy as np
import pytest

from sounding.passes.orthogonalised import QUINTIC, Orthogonalised, momentum_correlations


def iterated(matrix: np.ndarray, steps: int) -> np.ndarray:
    """Newton–Schulz as Muon was published, in float64; the polar factor without steps."""
    if steps == 0:
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        return left @ right
    found, (a, b, c) = matrix / np.linalg.norm(matrix), QUINTIC
    for _ in range(steps):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize(("rows", "columns"), [(48, 48), (24, 96)])
def test_against_gaussian_matrices(rows: int, columns: int, steps: int):
    found = Orthogonalised(rows, columns, steps)
    random = np.random.default_rng(0)
    for correlation in (0.3, 0.9):
        products = []
        for _ in range(40):
            one, fresh = random.standard_normal((2, rows, columns))
            first = iterated(one, steps)
            for sign in (1, -1):  # what is fresh cancels between the two
                other = correlation * one + sign * math.sqrt(1 - correlation**2) * fresh
                second = iterated(other, steps)
                products.append([(first * second).sum(), ((first**2).sum() + (second**2).sum()) / 2])
        cross, square = np.mean(products, axis=0)
        assert found.norm == pytest.approx(math.sqrt(square), rel=0.005)
        assert found.correlations(np.array([correlation]))[0] == pytest.approx(cross / square, rel=0.01)


def test_the_polar_factor_of_square_matrices_has_a_closed_form():
    correlations = np.array([0.2, 0.7])
    m = np.arange(1, 200)
    shares = (4 / math.pi**2) * (4 * m / (4 * m**2 - 1)) ** 2
    expected = [(shares * each ** (2 * m - 1)).sum() for each in correlations]
    found = Orthogonalised(64, 64, 0)
    assert found.correlations(correlations) == pytest.approx(expected, rel=1e-3)
    assert found.norm == pytest.approx(8.0, rel=1e-3)


def test_a_vector_keeps_the_correlation_of_its_momentum():
    found = Orthogonalised(1, 10**6, 0)
    assert found.correlations(np.array([0.5])) == pytest.approx([0.5], rel=1e-3)


@pytest.mark.parametrize("nesterov", [False, True])
def test_correlations_of_momentum_are_those_of_its_impulse_response(nesterov: bool):
    mu, response, buffer = 0.8, [], 0.0
    for step in range(400):
        gradient = 1.0 if step == 0 else 0.0
        buffer = mu * buffer + (1 - mu) * gradient
        response.append((1 - mu) * gradient + mu * buffer if nesterov else buffer)
    h = np.array(response)
    expected = [(h[:-lag] * h[lag:]).sum() / (h * h).sum() for lag in (1, 2, 9)]
    assert momentum_correlations(mu, nesterov, 9)[[0, 1, 8]] == pytest.approx(expected, rel=1e-9)
