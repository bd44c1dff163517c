"""Eigenvalues of a symmetric operator as they are known: with bounds, and in the space they were found in."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch

from sounding.curvature.basis import Basis, Floats

_STILL = 0.2  # of the tolerance: one step with 1 stopped where a second eigenvector was still to come

Ending: TypeAlias = Literal["converged", "limit", "not finite"]


@dataclass(frozen=True, slots=True)
class Eigenvalue:
    """An eigenvalue lies within `bound` of `value`, whatever was missed: it is the residual ‖Av - λv‖, with rounding.

    Rounding is that of the products, as far as it is usual in networks, and of the linear algebra. `error` is how far
    off the value is as far as none was missed: residual²/gap where that is less, the gap being measured to the
    intervals of the others that were found. By it a value is converged.
    """

    value: float
    bound: float
    error: float
    residual: float
    converged: bool


@dataclass(frozen=True, eq=False)
class Extremes:
    """What was found: `top` from the largest, `bottom` from the smallest, by value and not by magnitude.

    `basis` and `projected` are the Krylov space and the operator in it: A·Vᵀ = Vᵀ·projected + `next_norm`·(a vector
    outside)·(last row of the basis). Empty where a product was not finite. `rounding` is what bounds allow for it.
    """

    top: tuple[Eigenvalue, ...]
    bottom: tuple[Eigenvalue, ...]
    products: int
    ending: Ending
    basis: Basis
    projected: Floats  # [m, m]
    next_norm: float
    rounding: float

    @property
    def alphas(self) -> Floats:
        """The diagonal of the tridiagonal matrix; of an arrowhead after a restart."""
        return np.diag(self.projected).copy()

    @property
    def betas(self) -> Floats:
        """What stands beside the diagonal."""
        return np.diag(self.projected, 1).copy()

    @property
    def scale(self) -> float:
        """The largest magnitude of an eigenvalue found."""
        return max((abs(each.value) for each in (*self.top, *self.bottom)), default=0.0)

    def vectors(self, count: int) -> torch.Tensor:
        """Eigenvectors of the `count` largest values found, as rows of length 1, in their order."""
        rotation = np.linalg.eigh(self.projected)[1][:, ::-1][:, : min(count, len(self.top))]
        return self.basis.combined(np.ascontiguousarray(rotation))


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many values at each end, how exact, and at what cost.

    A value of the top is converged when its error is below `tolerance` of its own magnitude, one of the bottom when it
    is below that share of the largest magnitude; the process waits for it only if `both_ends`, as that can double the
    cost. `steady` is for how many steps in a row that must hold. `still` is the share of the tolerance by which the
    largest value may have grown in the last of them; with it, one step can do.
    """

    top: int = 5
    bottom: int = 1
    tolerance: float = 1e-3
    most_products: int = 100
    most_vectors: int = 100
    steady: int = 2
    both_ends: bool = False
    still: float = math.inf


def largest_alone(tolerance: float = 1e-3, most_products: int = 100, most_vectors: int = 100) -> Wanted:
    """The largest value and nothing else: it stops after the first step in which the value hardly grew."""
    return Wanted(1, 0, tolerance, most_products, most_vectors, steady=1, still=_STILL)


def error_bounds(values: Floats, residuals: Floats) -> Floats:
    """The smaller of each residual and its square over the gap to the others' intervals; `values` ascending."""
    if len(values) < 2:
        return residuals
    distances = np.abs(values[:, None] - values[None, :]) - residuals[None, :]
    np.fill_diagonal(distances, np.inf)
    gaps = np.maximum(distances.min(axis=1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.where(gaps > 0.0, residuals**2 / gaps, np.inf)
    return np.minimum(residuals, squared)
