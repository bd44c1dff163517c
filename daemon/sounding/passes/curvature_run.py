"""The pass `curvature_run`: the solver over the pass `curvature`, run once for all plugins that ask for its numbers."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch

from sounding.contract import shared_pass
from sounding.curvature.curved import Curved
from sounding.curvature.eigenvalues import Extremes, Wanted, largest_alone
from sounding.curvature.krylov import extremes, starting_vector, warm_start
from sounding.curvature.objective import Statistics
from sounding.curvature.operator import LinearOperator, difference
from sounding.curvature.outliers import Outliers, outliers_of
from sounding.curvature.probes import Density, Traces, density, traces
from sounding.errors import SoundingError
from sounding.passes.curvature import Curvature
from sounding.passes.remembering import remembered
from sounding.recipe import Recipe
from sounding.records import Checkpoint

Kind: TypeAlias = Literal["hessian", "ggn", "residual"]

_KEPT = 2  # checkpoints whose eigenvectors stay in this process
_REMEMBERED = 8  # operators, of whatever runs, whose last first eigenvector does
_MOST_BYTES = 512 << 20


@dataclass(frozen=True)
class Settings:
    """The pass's settings, as the configuration gives them."""

    top: int
    tolerance: float
    products: int
    probes: int
    depth: int
    both_ends: bool


@dataclass(frozen=True, eq=False)
class Directions:
    """The top eigenvalues, and their eigenvectors as rows on the CPU."""

    values: tuple[float, ...]
    vectors: torch.Tensor
    parameters: tuple[str, ...]
    converged: bool


@dataclass(frozen=True, eq=False)
class _Memory:
    """What was found last for one operator of a run: where from, and where the next checkpoint starts."""

    checkpoint_id: str
    start: torch.Tensor
    vector: torch.Tensor


_DIRECTIONS: dict[tuple[str, ...], tuple[Recipe, Directions]] = remembered()
_LAST: dict[tuple[str, ...], _Memory] = remembered()


class Solved:
    """What is known of one matrix; every number is computed when it is first asked for."""

    def __init__(self, operator: LinearOperator, start: torch.Tensor, wanted: Wanted, settings: Settings) -> None:
        self._operator = operator
        self._settings = settings
        self._wanted = wanted
        self._start = start

    @cached_property
    def found(self) -> Extremes:
        """Both ends of the spectrum."""
        return extremes(self._operator, self._start, self._wanted)

    @cached_property
    def traces(self) -> Traces:
        """Trace and Frobenius norm, each with a standard error."""
        return traces(self._operator, self.found, self._settings.probes)

    @cached_property
    def density(self) -> Density:
        """The spectral density, of which the values found are atoms."""
        return density(self._operator, self.found, min(self._settings.depth, self._wanted.most_vectors - 1))

    @cached_property
    def outliers(self) -> Outliers | None:
        """The eigenvalues above the widest gap; None where there is no gap to look at."""
        return outliers_of(self.found, self._settings.tolerance)


class CurvatureRun:
    """Spectra of the loss's curvature. Methods raise Unavailable where `curvature` does: yield it as a `Skip`.

    Eigenvalues of the "hessian", of its Gauss-Newton part "ggn", and of what is left, "residual", whose every product
    costs both others'. `batch_norm` is as for `curvature`.
    """

    def __init__(self, curvature: Curvature, checkpoint: Checkpoint, network: str, settings: Settings) -> None:
        self.curvature = curvature
        self.settings = settings
        self._run = (checkpoint.store, checkpoint.run, network)
        self._whose = (checkpoint.checkpoint_id, network, curvature.subset.hash, repr(settings))
        self._solved: dict[tuple[Kind, Statistics], Solved] = {}

    def of(self, kind: Kind = "hessian", batch_norm: Statistics = "eval") -> Solved:
        """Everything about one matrix of the whole network."""
        if (kind, batch_norm) not in self._solved:
            operator = self._operator(kind, batch_norm)
            wanted = Wanted(
                self.settings.top,
                1,
                self.settings.tolerance,
                self.settings.products,
                max(2, self.curvature.room),
                both_ends=self.settings.both_ends,
            )
            start = starting_vector(self.curvature.gradient(batch_norm), operator)
            self._solved[kind, batch_norm] = Solved(operator, start, wanted, self.settings)
        return self._solved[kind, batch_norm]

    def largest(self, operator: Curved, batch_norm: Statistics = "eval", block: str | None = None) -> Extremes:
        """λ_max alone, of any operator of the pass `curvature`.

        It starts from the eigenvector that this process found for the run's last checkpoint, if any: a third of the
        products does then. The same checkpoint starts from where it did, so that repeating it repeats every digit;
        otherwise the start moves a value within its tolerance only.
        """
        facts = operator.facts
        key = (*self._run, facts.matrix, facts.batch_norm, facts.block, facts.weight_decay, facts.preconditioner)
        last = _LAST.pop(key, None)
        if last is not None and last.start.numel() != operator.size:
            last = None
        if last is None:
            start = starting_vector(self.curvature.gradient(batch_norm, block), operator)
        elif last.checkpoint_id == self._whose[0]:
            start = last.start.to(operator.device)
        else:
            start = warm_start(last.vector, self.curvature.gradient(batch_norm, block), operator)
        room = max(2, self.curvature.room)
        found = extremes(operator, start, largest_alone(self.settings.tolerance, self.settings.products, room))
        if found.top and 2 * start.nbytes * _REMEMBERED <= _MOST_BYTES:
            _LAST[key] = _Memory(self._whose[0], start.cpu(), found.vectors(1)[0].cpu())
            while len(_LAST) > _REMEMBERED:
                _LAST.pop(next(iter(_LAST)))
        return found

    def directions(self, kind: Kind = "hessian") -> Directions | None:
        """The top eigenvectors; those of the last checkpoints are remembered. None where a product was not finite."""
        key, recipe = (*self._whose, kind), self.curvature.recipe
        if key in _DIRECTIONS and _DIRECTIONS[key][0] is recipe:  # an edited recipe may have another loss
            return _DIRECTIONS[key][1]
        found = self.of(kind).found
        if not found.top:
            return None
        vectors = found.vectors(self.settings.top).cpu()
        values = tuple(each.value for each in found.top)
        known = Directions(values, vectors, self.curvature.layout.names, all(each.converged for each in found.top))
        if vectors.nbytes <= _MOST_BYTES:
            while len(_DIRECTIONS) >= _KEPT:
                _DIRECTIONS.pop(next(iter(_DIRECTIONS)))
            _DIRECTIONS[key] = (recipe, known)
        return known

    def _operator(self, kind: Kind, batch_norm: Statistics) -> LinearOperator:
        if kind == "hessian":
            return self.curvature.hessian(batch_norm)
        ggn = self.curvature.ggn(batch_norm)
        return ggn if kind == "ggn" else difference(self.curvature.hessian(batch_norm), ggn)


@shared_pass(version=2)
def curvature_run(
    curvature: Curvature,
    checkpoint: Checkpoint,
    network: str,
    *,
    top: int = 5,
    tolerance: float = 1e-3,
    products: int = 100,
    probes: int = 20,
    depth: int = 32,
    both_ends: bool = False,
) -> CurvatureRun:
    """The `top` largest eigenvalues to `tolerance`, within `products` products with vectors.

    `probes` random vectors for traces, `depth` Lanczos steps for the spectral density. `both_ends` makes it wait for
    the smallest eigenvalue as well, which can double the cost. Raises SoundingError for numbers that make no sense.
    """
    _require("top", top, 1, "there is a largest eigenvalue to look for")
    _require("products", products, 1, "nothing is known without one")
    _require("probes", probes, 2, "a standard error takes two")
    _require("depth", depth, 1, "a quadrature has a node at least")
    if not tolerance > 0.0:
        raise SoundingError(f"[passes.curvature_run] tolerance: {tolerance} is none; write a share like 1e-3.")
    return CurvatureRun(curvature, checkpoint, network, Settings(top, tolerance, products, probes, depth, both_ends))


def _require(option: str, value: int, least: int, why: str) -> None:
    if value < least:
        raise SoundingError(f"[passes.curvature_run] {option}: {value} is too few, as {why}; write {least} or more.")
