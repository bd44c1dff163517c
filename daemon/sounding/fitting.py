"""Least squares for models that are linear in most of their parameters: the few others are searched, in a box.

For given nonlinear parameters the linear ones follow from one small linear problem, so only the former need starting
values, and two of them make a problem in two dimensions (variable projection: Golub and Pereyra 1973; the Jacobian is
Kaufman's 1975).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_ROUNDS = 200
_DAMPING = 1e-3
_LARGEST_DAMPING = 1e12
_ENOUGH = 1e-14  # relative fall of the sum of squares below which a step counts for nothing


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of n points at one place of its p nonlinear parameters: `offset + basis @ coefficients`."""

    basis: Floats  # [n, k], a column per linear coefficient
    slopes: Callable[[Floats], Floats]  # coefficients → derivative of the model by every nonlinear parameter, [n, p]
    offset: Floats | float = 0.0  # [n]


@dataclass(frozen=True, slots=True)
class Fit:
    """The best fit found; `converged` is false where the search ended before the sum of squares stopped falling."""

    nonlinear: Floats  # [p]
    coefficients: Floats  # [k]
    squares: float  # sum of squared residuals
    converged: bool


@dataclass(frozen=True, slots=True)
class _Point:
    place: Floats
    coefficients: Floats
    residuals: Floats
    jacobian: Floats
    squares: float


def fit_separable(
    model: Callable[[Floats], Shape], values: Floats, starts: Iterable[Floats], low: Floats, high: Floats
) -> Fit:
    """The least-squares fit over all starts, by damped Gauss–Newton steps kept inside [low, high]."""
    fits = [_descend(model, values, np.clip(start, low, high), low, high) for start in starts]
    return min(fits, key=lambda fit: fit.squares)


def _descend(model: Callable[[Floats], Shape], values: Floats, start: Floats, low: Floats, high: Floats) -> Fit:
    here, damping, converged = _evaluate(model, values, start), _DAMPING, False
    for _ in range(_ROUNDS):
        there = _evaluate(model, values, np.clip(here.place + _step(here, damping, low, high), low, high))
        if there.squares > here.squares:
            damping *= 4
            if damping > _LARGEST_DAMPING:
                converged = True  # no direction leads down
                break
            continue
        fall = here.squares - there.squares
        here, damping = there, damping / 3
        if fall <= _ENOUGH * here.squares:
            converged = True
            break
    return Fit(here.place, here.coefficients, here.squares, converged)


def _step(here: _Point, damping: float, low: Floats, high: Floats) -> Floats:
    """The next step; a parameter at its bound that would leave the box is held."""
    gradient = here.jacobian.T @ here.residuals
    held = ((here.place <= low) & (gradient > 0)) | ((here.place >= high) & (gradient < 0))
    jacobian = np.where(held, 0.0, here.jacobian)
    normal = jacobian.T @ jacobian
    scale = np.diag(normal).copy()
    scale[scale <= 0] = 1.0
    return np.linalg.solve(normal + damping * np.diag(scale), -jacobian.T @ here.residuals).astype(np.float64)


def _evaluate(model: Callable[[Floats], Shape], values: Floats, place: Floats) -> _Point:
    shape = model(place)
    target = values - shape.offset
    coefficients = np.linalg.lstsq(shape.basis, target, rcond=None)[0].astype(np.float64)
    residuals = target - shape.basis @ coefficients
    slopes = shape.slopes(coefficients)
    orthonormal = np.linalg.qr(shape.basis)[0].astype(np.float64)
    jacobian = -(slopes - orthonormal @ (orthonormal.T @ slopes))
    return _Point(place, coefficients, residuals, jacobian, float(residuals @ residuals))
