"""Both ends of a symmetric operator's spectrum by one Lanczos process, with a bound on the error of every value.

Vectors are in the operator's type (float32), everything small in float64. Every new vector is orthogonalised against
all before it, so that no eigenvalue is found twice; beyond a number of vectors the process is restarted with the best
of them (thick restart: Wu and Simon 2000). A single starting vector sees one direction of a multiple eigenvalue's
eigenspace: such a value is found once, unless the whole Krylov space is exhausted.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch

from sounding.curvature.basis import Basis, Floats, dot, length
from sounding.curvature.eigenvalues import Eigenvalue, Ending, Extremes, Wanted, error_bounds
from sounding.curvature.operator import LinearOperator

_AGAIN = 1e-3  # of a vector's length: if more than that is taken out of it, rounding is worth taking out once more
_TIMES = 4  # after which it lies in the basis's span
_EXHAUSTED = 64  # times the type's epsilon of the operator's norm: a residual of this length is rounding alone
_ROUNDING = 32  # times epsilon times the norm: what networks' products, more than orthogonalisation, are wrong by
_WARM_NOISE = 0.05

DEFAULT = Wanted()


def starting_vector(gradient: torch.Tensor | None, operator: LinearOperator, noise: float = 0.1) -> torch.Tensor:
    """The gradient's direction plus `noise` of a random one (fixed), as it could lack an eigenvector altogether."""
    random = random_vector(operator, 0)
    if gradient is None:
        return random
    flat = gradient.to(random)
    largest = float(flat.abs().max())
    if largest == 0.0 or not math.isfinite(largest):
        return random
    flat = flat / largest  # squares of a small gradient vanish
    return random.mul_(noise).add_(flat, alpha=1.0 / length(flat))


def warm_start(vector: torch.Tensor, gradient: torch.Tensor, operator: LinearOperator) -> torch.Tensor:
    """An eigenvector of the checkpoint before and the gradient's direction in equal parts, and a little noise.

    Where the eigenvector has turned since, as at the edge of stability, the gradient has more of the new one.
    """
    known = vector.to(operator.device, operator.dtype)
    start = starting_vector(gradient, operator, _WARM_NOISE)
    start.div_(length(start))
    return start.add_(known, alpha=math.copysign(1.0 / length(known), dot(start, known)))


def extremes(operator: LinearOperator, start: torch.Tensor, wanted: Wanted = DEFAULT) -> Extremes:
    """The wanted values at both ends of the spectrum, or what is known of them when the products are used up."""
    process = _Lanczos(operator, start, wanted)
    steady = 0
    while process.step():
        top, bottom = process.ends()
        steady = steady + 1 if process.is_enough(top, bottom) else 0
        if process.is_complete(top) or steady >= wanted.steady:
            return process.result(top, bottom, "converged")
        if process.products >= wanted.most_products:
            return process.result(top, bottom, "limit")
        process.make_room()
    return process.result((), (), "not finite")


class _Lanczos:
    """The process: a basis, the operator in it, and the vector that comes next."""

    def __init__(self, operator: LinearOperator, start: torch.Tensor, wanted: Wanted) -> None:
        fewest = wanted.top + wanted.bottom + 3
        self._operator = operator
        self._wanted = wanted
        self._epsilon = torch.finfo(operator.dtype).eps
        self._most = max(wanted.most_vectors, fewest)
        self._basis = Basis(operator.size, operator.device, operator.dtype, self._most)
        self._projected = np.zeros((0, 0))
        self._coupling = np.zeros(0)  # of the next vector to each row of the basis
        self._next = start / length(start)
        self._first = 0  # row at which the present Krylov space begins: one before it was exhausted
        self._exhausted = False
        self._values, self._turn = np.zeros(0), np.zeros((0, 0))
        self._growth = math.inf  # of the largest value in the last step
        self.products = 0

    def step(self) -> bool:
        """One product; False when it is not finite."""
        if self._exhausted:
            self._first = len(self._basis)
        self._basis.append(self._next)
        image = self._operator.matmat(self._basis[-1][None])[0]
        self.products += 1
        if not math.isfinite(length(image)):
            return False
        self._grow(dot(image, self._basis[-1]))
        left = self._orthogonalised(image, self._projected[-1])
        self._coupling = np.zeros(len(self._basis))
        self._exhausted = left <= _EXHAUSTED * self._epsilon * self._magnitude or self._is_whole
        if self._exhausted:
            self._next = self._elsewhere()
        else:
            self._next, self._coupling[-1] = image.div_(left), left
        return True

    def ends(self) -> tuple[tuple[Eigenvalue, ...], tuple[Eigenvalue, ...]]:
        """The values wanted of both ends, as they are known now."""
        residuals = np.abs(self._coupling @ self._turn)
        errors = error_bounds(self._values, residuals)
        count, tolerance = len(self._values), self._wanted.tolerance
        top = range(count - 1, max(count - self._wanted.top, 0) - 1, -1)
        enough = tolerance * np.abs(self._values)
        bottom = range(min(count, self._wanted.bottom))
        loosest = np.full(count, tolerance * self._scale)
        return self._listed(top, errors, residuals, enough), self._listed(bottom, errors, residuals, loosest)

    def is_enough(self, top: tuple[Eigenvalue, ...], bottom: tuple[Eigenvalue, ...]) -> bool:
        """Whether all that is wanted has converged, in the present Krylov space as in those that were exhausted."""
        if self._exhausted or len(top) < min(self._wanted.top, self._basis.size):
            return False
        if not all(each.converged for each in (*top, *(bottom if self._wanted.both_ends else ()))):
            return False
        if top and self._growth > max(self._wanted.still * self._wanted.tolerance * abs(top[0].value), self._rounding):
            return False
        return self._first == 0 or self._largest_here() <= self._kth(top)

    def is_complete(self, top: tuple[Eigenvalue, ...]) -> bool:
        """Whether nothing is left to find: all of the space is known, or the last one exhausted had nothing better."""
        if self._is_whole:
            return True
        if not self._exhausted or self._first == 0 or len(top) < self._wanted.top:
            return False
        return self._largest_here() <= self._kth(top)

    def make_room(self) -> None:
        """Restart with the best vectors when there are as many as there may be."""
        if len(self._basis) < self._most or self._is_whole:
            return
        size = len(self._values)
        spare = (size - self._wanted.top - self._wanted.bottom) // 2
        kept = np.r_[: self._wanted.bottom, size - self._wanted.top - spare : size]
        rotation = self._turn[:, kept]
        self._coupling = self._coupling @ rotation
        self._basis.compress(rotation)
        self._projected = np.diag(self._values[kept])
        self._first = 0

    def result(self, top: tuple[Eigenvalue, ...], bottom: tuple[Eigenvalue, ...], ending: Ending) -> Extremes:
        """What was found, with the space it was found in."""
        norm = float(np.linalg.norm(self._coupling))
        rounding = self._rounding if ending != "not finite" else math.nan
        return Extremes(top, bottom, self.products, ending, self._basis, self._projected, norm, rounding)

    @property
    def _is_whole(self) -> bool:
        return len(self._basis) == self._basis.size

    @property
    def _rounding(self) -> float:
        return _ROUNDING * self._epsilon * self._magnitude

    @property
    def _scale(self) -> float:
        return float(np.abs(self._values).max())

    @property
    def _magnitude(self) -> float:
        """What rounding goes with: the norm of the operator, or of what it is the difference of."""
        return max(self._scale, self._operator.cancelled)

    def _largest_here(self) -> float:
        """The largest value of the present Krylov space, with its residual."""
        values, turn = np.linalg.eigh(self._projected[self._first :, self._first :])
        return float(values[-1] + abs(self._coupling[self._first :] @ turn[:, -1]))

    def _kth(self, top: tuple[Eigenvalue, ...]) -> float:
        return top[-1].value + _EXHAUSTED * self._epsilon * self._magnitude

    def _listed(
        self, places: Iterable[int], errors: Floats, residuals: Floats, enough: Floats
    ) -> tuple[Eigenvalue, ...]:
        rounding = self._rounding
        return tuple(
            Eigenvalue(
                float(self._values[place]),
                float(residuals[place]) + rounding,
                float(errors[place]) + rounding,
                float(residuals[place]),
                bool(errors[place] + rounding <= max(enough[place], 2 * rounding)),
            )
            for place in places
        )

    def _grow(self, alpha: float) -> None:
        size = len(self._basis)
        grown = np.zeros((size, size))
        grown[:-1, :-1] = self._projected
        grown[-1, :-1] = grown[:-1, -1] = self._coupling
        grown[-1, -1] = alpha
        self._projected = grown
        before = self._values[-1] if size > 1 else -math.inf
        self._values, self._turn = np.linalg.eigh(grown)
        self._growth = float(self._values[-1] - before)

    def _orthogonalised(self, image: torch.Tensor, known: Floats) -> float:
        """Take the basis out of `image`, first what it is known to have of it; what is left of its length, 0 if none.

        Without the first step, what is left would inherit the basis's own deviations from orthogonality, and these
        would grow from step to step.
        """
        for place in np.flatnonzero(known):
            image.add_(self._basis[int(place)], alpha=-float(known[place]))
        for _ in range(_TIMES):
            taken = self._basis.coefficients(image)
            self._basis.remove(image, taken)
            left = length(image)
            if np.linalg.norm(taken) <= _AGAIN * left:
                return left
        return 0.0

    def _elsewhere(self) -> torch.Tensor:
        """A random vector across the basis: an exhausted space says nothing of what lies outside."""
        vector = random_vector(self._operator, len(self._basis))
        if not self._is_whole:
            vector.div_(self._orthogonalised(vector, np.zeros(0)))
        return vector


def random_vector(operator: LinearOperator, seed: int) -> torch.Tensor:
    """Independent normal numbers, the same for every operator of this size on any device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(operator.size, generator=generator, dtype=operator.dtype)
    return drawn.div_(math.sqrt(operator.size)).to(operator.device)
