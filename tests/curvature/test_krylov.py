"""Extreme eigenvalues against dense ones: exact within their bounds, once each, whatever the spectrum."""

import math

import numpy as np
import pytest
import torch
from curvature.dense import Dense, like_a_network, with_eigenvalues

from sounding.curvature.eigenvalues import Extremes, Wanted, error_bounds, largest_alone
from sounding.curvature.krylov import extremes, random_vector, starting_vector, warm_start
from sounding.curvature.memory import Allocations
from sounding.curvature.operator import Operator

TRIES = 30
LARGEST = largest_alone()


def found_in(operator: Dense, wanted: Wanted = Wanted(), seed: int = 100) -> Extremes:  # noqa: B008
    return extremes(operator, random_vector(operator, seed), wanted)


def truth_of(operator: Dense) -> np.ndarray:
    return np.linalg.eigvalsh(operator.exact)[::-1]


def test_every_value_is_within_its_bound_of_an_eigenvalue_and_the_right_one():
    misses, wrong, spent = [], [], []
    for seed in range(TRIES):
        operator = with_eigenvalues(like_a_network(seed, 300), seed)
        found, truth = found_in(operator, Wanted(both_ends=seed % 2 == 0)), truth_of(operator)
        assert found.ending == "converged"
        assert found.bottom[0].converged or seed % 2
        spent.append(found.products)
        misses += [seed for each in (*found.top, *found.bottom) if np.abs(truth - each.value).min() > each.bound]
        wrong += [seed for each, true in zip(found.top, truth, strict=False) if abs(each.value / true - 1) > 1e-3]
    assert misses == []
    assert len(set(wrong)) <= 1  # a spectrum in which the fifth value was missed: no bound can tell
    assert np.mean(spent) < 20


def test_the_largest_alone_costs_a_few_products():
    spent = []
    for seed in range(TRIES):
        operator = with_eigenvalues([*like_a_network(seed, 300), 60.0], seed)
        found = found_in(operator, LARGEST)
        assert found.top[0].value == pytest.approx(60.0, rel=1e-3)
        assert found.products == operator.products
        spent.append(found.products)
    assert np.median(spent) <= 6


def test_one_step_does_where_the_largest_value_hardly_grew():
    wrong, spent = {"two": 0, "still": 0, "hasty": 0}, {"two": 0, "still": 0, "hasty": 0}
    rules = {"two": Wanted(1, 0), "still": LARGEST, "hasty": Wanted(1, 0, steady=1)}
    for seed in range(20):
        close = 60.0 * np.array([1.0, 0.97, 0.95])  # as at the edge of stability
        operator = with_eigenvalues(np.r_[like_a_network(seed, 150), close], seed)
        for rule, wanted in rules.items():
            found = found_in(operator, wanted)
            spent[rule] += found.products
            wrong[rule] += abs(found.top[0].value / 60.0 - 1) > 1e-3
    assert wrong["still"] == 0 < wrong["two"] < wrong["hasty"]
    assert spent["still"] < spent["two"]


def test_a_warm_start_has_the_old_eigenvector_and_the_gradient_in_equal_parts_and_one_sign():
    operator = Dense(np.eye(2000))
    old, gradient = torch.zeros(2000), torch.zeros(2000)
    old[0], gradient[1], gradient[0] = -3.0, 1e-3, 1e-4
    start = warm_start(old, gradient, operator)
    assert float(start[0]) == pytest.approx(1.1, abs=0.02)
    assert float(start[1]) == pytest.approx(1.0, abs=0.02)
    assert 0.03 < float(start[2:].norm()) < 0.07


def test_sixty_steps_find_nothing_twice():
    operator = with_eigenvalues(like_a_network(3, 400), 3)
    found = found_in(operator, Wanted(top=12, most_products=60, steady=61))
    assert found.ending == "limit"
    vectors = found.basis.combined(np.eye(60))
    assert float((vectors @ vectors.T - torch.eye(60)).abs().max()) < 1e-4
    assert [each.value for each in found.top] == pytest.approx(truth_of(operator)[:12].tolist(), rel=1e-5)


def test_a_narrow_spectrum_far_from_zero_costs_no_orthogonality():
    operator = with_eigenvalues(-np.linspace(1.0, 2.0, 50))
    found = found_in(operator, Wanted(most_products=40, steady=41))
    vectors = found.basis.combined(np.eye(40))
    assert float((vectors @ vectors.T - torch.eye(40)).abs().max()) < 1e-5
    assert found.top[0].value == pytest.approx(-1.0, rel=1e-4)


def test_vectors_are_eigenvectors():
    operator = with_eigenvalues(like_a_network(1, 300), 1)
    found = found_in(operator)
    vectors = found.vectors(5)
    images = operator.matmat(vectors)
    for vector, image, each in zip(vectors, images, found.top, strict=True):
        assert float(vector.norm()) == pytest.approx(1.0, abs=1e-5)
        assert float((image - each.value * vector).norm()) == pytest.approx(each.residual, abs=1e-4 * found.scale)


def test_the_space_is_what_it_is_said_to_be():
    operator = with_eigenvalues(like_a_network(2, 300), 2)
    found = found_in(operator, Wanted(top=5, most_products=17, steady=18))
    basis = found.basis.combined(np.eye(17)).double().numpy()
    left = basis @ operator.exact - found.projected @ basis
    assert np.abs(left[:-1]).max() < 1e-4
    assert np.linalg.norm(left[-1]) == pytest.approx(found.next_norm, rel=1e-4)
    assert np.allclose(found.projected, np.diag(found.alphas) + np.diag(found.betas, 1) + np.diag(found.betas, -1))


def test_no_more_vectors_are_made_than_there_is_room_for():
    """Also where memory counts as soon as it is asked for, as on a GPU."""
    size = 100_000
    values = torch.linspace(0.0, 1.0, size)
    operator = Operator(size, values.device, values.dtype, lambda vectors: vectors * values)
    start = starting_vector(None, operator)
    with Allocations() as counted:
        found = extremes(operator, start, largest_alone(1e-6, most_products=20, most_vectors=8))
    assert found.products == 20, "it was restarted"
    assert counted.peak <= (8 + 5) * values.nbytes


def test_a_restart_at_the_memory_cap_changes_the_cost_only():
    operator = with_eigenvalues(np.r_[np.linspace(1.0, 3.0, 20), np.linspace(-0.5, 0.9, 180)], 4)
    free = found_in(operator)
    tight = found_in(operator, Wanted(most_vectors=16))
    assert len(tight.basis) <= 16 < len(free.basis)
    assert tight.ending == "converged"
    assert tight.products > free.products
    for one, other, true in zip(free.top, tight.top, truth_of(operator), strict=False):
        assert one.value == pytest.approx(true, rel=1e-3)
        assert other.value == pytest.approx(true, rel=1e-3)
    assert tight.bottom[0].value == pytest.approx(-0.5, abs=tight.bottom[0].bound + 1e-9)


def test_mostly_negative_spectra_have_their_largest_value_and_not_the_largest_magnitude():
    operator = with_eigenvalues(-like_a_network(5, 300), 5)
    found, truth = found_in(operator, Wanted(top=1, both_ends=True)), truth_of(operator)
    assert found.bottom[0].value == pytest.approx(truth[-1], rel=1e-3)
    assert abs(found.top[0].value - truth[0]) <= found.top[0].bound
    assert found.top[0].value < 0.1 * abs(truth[-1])


@pytest.mark.parametrize(
    ("values", "top"),
    [
        ([3.0, 3.0, 2.0, 1.0] + [0.0] * 96, [3.0, 3.0, 2.0, 1.0, 0.0]),  # the space is exhausted and a new one begun
        ([2.0] * 50, [2.0] * 5),
        ([0.0] * 40, [0.0] * 5),
        ([7.0], [7.0]),
        ([-4.0], [-4.0]),
        ([5.0, -1.0, 0.5], [5.0, 0.5, -1.0]),
    ],
)
def test_exhausted_spaces(values: list[float], top: list[float]):
    found = found_in(with_eigenvalues(values))
    assert found.ending == "converged"
    assert [each.value for each in found.top] == pytest.approx(top, abs=1e-5)
    assert all(each.converged for each in found.top)
    assert found.products <= len(set(values)) + 6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_products_that_are_no_numbers_end_it(bad: float):
    operator = with_eigenvalues([1.0, 2.0, 3.0])
    operator.poison(bad)
    found = found_in(operator)
    assert found.ending == "not finite"
    assert found.top == found.bottom == ()
    assert found.products == 1


def test_what_has_not_converged_says_so():
    operator = with_eigenvalues(np.linspace(0.0, 1.0, 400))
    found, truth = found_in(operator, Wanted(most_products=8)), truth_of(operator)
    assert found.ending == "limit"
    assert not any(each.converged for each in found.top)
    assert all(np.abs(truth - each.value).min() <= each.bound for each in found.top)


def test_bounds_by_hand():
    assert error_bounds(np.array([0.0, 1.0, 3.0]), np.array([0.2, 0.1, 0.1])).tolist() == pytest.approx(
        [0.04 / 0.9, 0.01 / 0.8, 0.01 / 1.9]
    )
    assert error_bounds(np.array([1.0, 1.0]), np.array([0.1, 0.1])).tolist() == [0.1, 0.1]
    assert error_bounds(np.array([2.0]), np.array([0.3])).tolist() == [0.3]


def test_the_start_is_the_gradient_with_some_noise():
    operator = Dense(np.eye(2000))
    gradient = torch.zeros(2000, dtype=torch.float64)
    gradient[0] = 1e-30
    start = starting_vector(gradient, operator)
    assert float(start[0]) == pytest.approx(1.0, abs=0.02)
    assert float(start[1:].norm()) == pytest.approx(0.1, rel=0.1)
    for none in (None, torch.zeros(2000), torch.full((2000,), math.nan)):
        assert float(starting_vector(none, operator).norm()) == pytest.approx(1.0, rel=0.1)
    assert torch.equal(starting_vector(None, operator), starting_vector(None, operator))
