"""Both ends of a symmetric operator's spectrum by one Lanczos process, with a bound on the error of every value.

Vectors are in the operator's type (float32), everything small in float64. Every new vector is orthogonalised against
all before it, so that no eigenvalue is found twice; beyond a number of vectors the process is restarted with the best
of them (thick restart: Wu and Simon 2000). A single starting vector sees one direction of a multiple eigenvalue's
eigenspace: such a value is found once, unless the whole Krylov space is exhausted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from sounding.curvature.basis import Basis, Floats, dot, length
from sounding.curvature.operator import LinearOperator

Ending = Literal["converged", "limit", "not finite"]

_AGAIN = 0.05  # of a vector's length: if less is left after orthogonalising, rounding is worth a second time
_EXHAUSTED = 64  # times the type's epsilon of the operator's norm: a residual of this length is rounding alone
_ROUNDING = 8  # times epsilon times the norm: what products and orthogonalisation are wrong by


@dataclass(frozen=True, slots=True)
class Eigenvalue:
    """An eigenvalue lies within `bound` of `value`, as far as no other was missed in between.

    The residual ‖Av - λv‖ alone is a bound that holds whatever was missed; residual²/gap is the smaller one of a value
    that stands apart, its gap being measured to the intervals of the others that were found.
    """

    value: float
    bound: float
    residual: float
    converged: bool


@dataclass(frozen=True, eq=False)
class Extremes:
    """What was found: `top` from the largest, `bottom` from the smallest, by value and not by magnitude.

    `basis` and `projected` are the Krylov space and the operator in it: A·Vᵀ = Vᵀ·projected + `next_norm`·(a vector
    outside)·(last row of the basis). Empty where a product was not finite.
    """

    top: tuple[Eigenvalue, ...]
    bottom: tuple[Eigenvalue, ...]
    products: int
    ending: Ending
    basis: Basis
    projected: Floats  # [m, m]
    next_norm: float

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

    A value of the top is converged when its bound is below `tolerance` of its own magnitude, one of the bottom when it
    is below that share of the largest magnitude. `steady` is for how many steps in a row that must hold.
    """

    top: int = 5
    bottom: int = 1
    tolerance: float = 1e-3
    most_products: int = 100
    most_vectors: int = 100
    steady: int = 2


def starting_vector(gradient: torch.Tensor | None, operator: LinearOperator, noise: float = 0.1) -> torch.Tensor:
    """The gradient's direction plus `noise` of a random one (fixed), as it could lack an eigenvector altogether."""
    random = _random(operator, 0)
    if gradient is None:
        return random
    flat = gradient.to(random)
    norm = length(flat)
    if norm == 0.0 or not math.isfinite(norm):
        return random
    return random.mul_(noise).add_(flat, alpha=1.0 / norm)


def extremes(operator: LinearOperator, start: torch.Tensor, wanted: Wanted = Wanted()) -> Extremes:
    """The wanted values at both ends of the spectrum, or what is known of them when the products are used up."""
    process = _Lanczos(operator, start, wanted)
    steady = 0
    while process.step():
        found = process.found()
        steady = steady + 1 if process.is_enough(*found) else 0
        if process.is_complete or steady >= wanted.steady:
            return process.extremes(*found, "converged")
        if process.products >= wanted.most_products:
            return process.extremes(*found, "limit")
        if process.fresh:
            steady = 0
        process.make_room()
    return process.extremes((), (), "not finite")


class _Lanczos:
    """The process: a basis, the operator in it, and the vector that comes next."""

    def __init__(self, operator: LinearOperator, start: torch.Tensor, wanted: Wanted) -> None:
        self._operator = operator
        self._wanted = wanted
        self._epsilon = torch.finfo(operator.dtype).eps
        self._most = max(min(wanted.most_vectors, operator.size), min(operator.size, wanted.top + wanted.bottom + 3))
        self._first = 0  # row at which the present Krylov space begins, after an earlier one was exhausted
        self.basis = Basis(operator.size, operator.device, operator.dtype)
        self.projected = np.zeros((0, 0))
        self.products = 0
        self.next_norm = 0.0
        self.fresh = False
        self._next = start / length(start)

    def step(self) -> bool:
        """One product; False when it is not finite."""
        self.basis.append(self._next)
        image = self._operator.matmat(self.basis[-1][None])[0].clone()
        self.products += 1
        norm = length(image)
        if not math.isfinite(norm):
            return False
        self._grow(dot(image, self.basis[-1]))
        left = self._orthogonalised(image, norm)
        self.fresh = left <= _EXHAUSTED * self._epsilon * max(self._scale(), norm) or len(self.basis) == self.basis.size
        self.next_norm = 0.0 if self.fresh else left
        self._next = self._elsewhere() if self.fresh else image.div_(left)
        return True

    def _grow(self, alpha: float) -> None:
        size = len(self.basis)
        grown = np.zeros((size, size))
        grown[: size - 1, : size - 1] = self.projected
        grown[-1, -1] = alpha
        if size > 1 and not self.fresh and not self._restarted(size):
            grown[-1, -2] = grown[-2, -1] = self.next_norm
        elif size > 1 and not self.fresh:
            grown[-1, :-1] = grown[:-1, -1] = self._arrow
        self.projected = grown

    def _restarted(self, size: int) -> bool:
        return self._arrow is not None and len(self._arrow) == size - 1

    _arrow: "Floats | None" = None

    def _orthogonalised(self, image: torch.Tensor, norm: float) -> float:
        """Take the basis out of `image`; what is left of its length."""
        for _ in range(3):
            self.basis.remove(image, self.basis.coefficients(image))
            left = length(image)
            if left > _AGAIN * norm:
                break
            norm = left
        return left

    def _elsewhere(self) -> torch.Tensor:
        """A random vector across the basis: an exhausted space says nothing of what lies outside."""
        vector = _random(self._operator, len(self.basis))
        if len(self.basis) < self.basis.size:
            vector.div_(self._orthogonalised(vector, length(vector)))
        return vector
