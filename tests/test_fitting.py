"""Separable least squares: exact where the data are, at the bound where the box ends, the best of its starts."""

from typing import Any

import numpy as np
import pytest

from sounding.fitting import Shape, fit_separable

X = np.linspace(0.0, 5.0, 60)


def decays(place: Any) -> Shape:
    """a + b·exp(−k·x), linear in a and b."""
    falling = np.exp(-place[0] * X)
    return Shape(np.column_stack([np.ones_like(X), falling]), lambda found: (-X * falling * found[1])[:, None])


def box(low: float, high: float) -> tuple[Any, Any]:
    return np.array([low]), np.array([high])


def test_what_was_planted_is_found_from_far_away():
    values = 2.0 - 3.0 * np.exp(-0.7 * X)
    fit = fit_separable(decays, values, [np.array([4.0])], *box(0.01, 10.0))
    assert fit.converged
    assert fit.nonlinear == pytest.approx([0.7], rel=1e-8)
    assert fit.coefficients == pytest.approx([2.0, -3.0], rel=1e-8)
    assert fit.squares < 1e-20


def test_with_noise_it_agrees_with_a_general_optimizer():
    optimize = pytest.importorskip("scipy.optimize")
    values = 2.0 - 3.0 * np.exp(-0.7 * X) + 0.1 * np.random.default_rng(0).standard_normal(len(X))
    fit = fit_separable(decays, values, [np.array([2.0])], *box(0.01, 10.0))
    peer = optimize.least_squares(lambda p: p[0] + p[1] * np.exp(-p[2] * X) - values, [1.0, -1.0, 1.0])
    assert fit.squares == pytest.approx(2 * peer.cost, rel=1e-10)
    assert [*fit.coefficients, *fit.nonlinear] == pytest.approx(list(peer.x), rel=1e-5)


def test_a_parameter_stays_inside_its_bounds():
    values = 2.0 - 3.0 * np.exp(-0.7 * X)
    fit = fit_separable(decays, values, [np.array([3.0])], *box(1.0, 10.0))
    assert fit.converged
    assert fit.nonlinear == pytest.approx([1.0])
    assert fit.squares > 1e-3


def test_a_start_outside_the_box_begins_at_its_edge():
    fit = fit_separable(decays, np.exp(-0.7 * X), [np.array([99.0])], *box(0.1, 2.0))
    assert fit.nonlinear == pytest.approx([0.7], rel=1e-6)


def test_the_best_of_several_valleys_wins():
    def waves(place: Any) -> Shape:
        wave = np.sin(place[0] * X)
        return Shape(wave[:, None], lambda found: (X * np.cos(place[0] * X) * found[0])[:, None])

    values = 1.5 * np.sin(4.0 * X)
    lost = fit_separable(waves, values, [np.array([1.0])], *box(0.1, 9.0))
    assert lost.squares > 1.0, "a valley of its own, or the test shows nothing"
    found = fit_separable(waves, values, [np.array([start]) for start in (1.0, 2.5, 4.3, 7.0)], *box(0.1, 9.0))
    assert found.nonlinear == pytest.approx([4.0])


def test_an_offset_is_taken_as_it_is():
    def shifted(place: Any) -> Shape:
        return Shape(np.ones((len(X), 1)), lambda found: np.exp(X / 5)[:, None], place[0] * np.exp(X / 5))

    fit = fit_separable(shifted, 3.0 + 0.5 * np.exp(X / 5), [np.array([0.0])], *box(-1.0, 1.0))
    assert (fit.nonlinear[0], fit.coefficients[0]) == pytest.approx((0.5, 3.0))
