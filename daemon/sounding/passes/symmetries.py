"""The pass `symmetries`: which weights may be rescaled without any effect on the network, measured on a small batch."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from sounding.batch import moved
from sounding.calling import Called
from sounding.contract import Run, shared_pass
from sounding.curvature.objective import batch_norms, several_values
from sounding.errors import SoundingError
from sounding.passes.model import Model
from sounding.passes.scale_invariance import Invariance, ScaleInvariance
from sounding.probe import TRAIN
from sounding.recipe import Recipe

Floats = NDArray[np.float64]
_WITHOUT_EFFECT = 1e-5  # of the greatest ‖w‖‖g‖: weights below that move nothing, and prove nothing
_INDEPENDENT = 1e-3  # of the greatest singular value: below it a combination of columns counts as zero
_SPARE = 4  # cotangents beyond one per tensor, when joint symmetries are looked for


@dataclass(frozen=True, eq=False)
class Scaling:
    """What rescaling a tensor does to the outputs, in random directions b of them.

    `rows[b, j]` is ⟨w_j, ∂(r_b·f)/∂w_j⟩ for row j, the derivative with respect to the logarithm of the row's scale;
    `sizes[j]` is ‖w_j‖·‖g_j‖, g over all directions: what the derivative could be at most.
    """

    rows: Floats
    sizes: Floats

    @property
    def whole(self) -> Floats:
        """The derivative with respect to the logarithm of the tensor's own scale, by direction."""
        return np.asarray(self.rows.sum(axis=1))

    @property
    def size(self) -> float:
        """‖w‖·‖g‖ at least, of the whole tensor."""
        return float(np.linalg.norm(self.sizes))

    def departure(self) -> float:
        """How far from scale invariant: the derivative over what it could be; NaN for a tensor without effect."""
        return float(np.linalg.norm(self.whole)) / self.size if self.size else math.nan

    def slices(self, tolerance: float) -> int:
        """The most equal runs of rows that are each scale invariant by themselves; 0 when not even the whole is."""
        count = self.rows.shape[1]
        for slices in range(count, 0, -1):
            if count % slices:
                continue
            parts = np.linalg.norm(self.rows.reshape(len(self.rows), slices, -1).sum(axis=2), axis=0)
            sizes = np.sqrt((self.sizes**2).reshape(slices, -1).sum(axis=1))
            # A row without effect, of a word not in the batch, is none the less invariant beside others that are.
            if np.all(parts <= tolerance * np.maximum(sizes, self.size * _WITHOUT_EFFECT)):
                return slices
        return 0


@dataclass(frozen=True)
class Symmetries:
    """What was found: single tensors, and `joint` rescalings w → a^c·w, given as exponents c by name.

    `without_effect` names weights that move no output: a bias before BatchNorm, an expert that no example reached.
    """

    invariant: ScaleInvariance
    departures: Mapping[str, float]
    joint: tuple[Mapping[str, float], ...]
    without_effect: tuple[str, ...]


@shared_pass(version=1)
def symmetries(
    model: Model,
    recipe: Recipe,
    run: Run,
    *,
    examples: int = 8,
    tolerance: float = 1e-4,
    joint: bool = False,
    batch_statistics: bool = True,
) -> Symmetries:
    """By the symmetry matrix, on the first examples of the train split.

    BatchNorm normalises by the batch, as in training (`batch_statistics`), everything else is in evaluation mode.
    `joint` also looks for groups that may be rescaled together, which takes one backward pass for each tensor. Raises
    Unavailable where the batch is too small to be normalised by.
    """
    split = recipe.probe(run).splits[TRAIN]
    inputs, _ = (moved(each, model.device) for each in split.batch(0, min(examples, split.size)))
    parameters = model.parameters()
    cotangents = len(parameters) + _SPARE if joint else _SPARE
    scalings = symmetry_matrix(
        model.module, lambda module: recipe.forward(module, inputs), parameters, cotangents, batch_statistics
    )
    return judged(scalings, tolerance, joint=joint)


def judged(scalings: Mapping[str, Scaling], tolerance: float, *, joint: bool) -> Symmetries:
    """What the symmetry matrix says of every tensor."""
    greatest = max((each.size for each in scalings.values()), default=0.0)
    idle = tuple(name for name, each in scalings.items() if each.size <= greatest * _WITHOUT_EFFECT)
    moving = {name: each for name, each in scalings.items() if name not in idle}
    slices = {name: each.slices(tolerance) for name, each in moving.items()}
    found = {name: Invariance(count, "symmetry") for name, count in slices.items() if count}
    rest = {name: each.whole for name, each in moving.items() if name not in found}
    groups = joint_symmetries(rest) if joint and rest else ()
    return Symmetries(ScaleInvariance(found), {name: each.departure() for name, each in moving.items()}, groups, idle)


def symmetry_matrix(
    module: nn.Module,
    call: Callable[[nn.Module], Any],
    parameters: Mapping[str, nn.Parameter],
    cotangents: int,
    batch_statistics: bool,
) -> dict[str, Scaling]:
    """S[b, i] = ⟨w_i, ∂(r_b·f)/∂w_i⟩ by tensor and row, for random cotangents r_b of the outputs f.

    By Euler's theorem on homogeneous functions column i vanishes exactly where f does not depend on the scale of w_i.
    """
    names, tensors = list(parameters), list(parameters.values())
    sums: dict[str, list[Floats]] = {name: [] for name in names}
    squares = {name: np.zeros(_row_count(each)) for name, each in parameters.items()}
    with _as_in_training(module, batch_statistics):
        outputs = _floating(_without_traces(module, call))
        for number in range(cotangents):
            weights = [torch.randn(each.shape, dtype=each.dtype).to(each.device) for each in outputs]
            keep = number + 1 < cotangents
            slopes = torch.autograd.grad(outputs, tensors, weights, retain_graph=keep, allow_unused=True)
            for name, tensor, slope in zip(names, tensors, slopes, strict=True):
                flat = tensor.detach().reshape(_row_count(tensor), -1).double()
                slant = torch.zeros_like(flat) if slope is None else slope.reshape(flat.shape).double()
                sums[name].append(torch.linalg.vecdot(flat, slant).cpu().numpy())
                squares[name] += torch.linalg.vecdot(slant, slant).cpu().numpy()
    lengths = {name: _row_norms(each) for name, each in parameters.items()}
    return {name: Scaling(np.stack(sums[name]), lengths[name] * np.sqrt(squares[name])) for name in names}


def joint_symmetries(columns: Mapping[str, Floats]) -> tuple[Mapping[str, float], ...]:
    """Exponents c with Σ c_i·S_i = 0: the null space of the columns, in reduced row echelon form."""
    names = list(columns)
    matrix = np.stack([columns[name] for name in names], axis=1)
    scales = np.linalg.norm(matrix, axis=0)
    _, values, right = np.linalg.svd(matrix / scales, full_matrices=True)
    small = np.concatenate([values, np.zeros(right.shape[0] - len(values))]) <= _INDEPENDENT * values[0]
    found: list[dict[str, float]] = []
    for row in _echelon(right[small] / scales):
        involved = np.abs(row) > 1e-2 * np.abs(row).max()
        exponents = row / np.abs(row[involved]).min()
        found.append({names[place]: round(float(exponents[place]), 3) for place in np.flatnonzero(involved)})
    return tuple(found)


def _echelon(rows: Floats) -> Floats:
    """Reduced row echelon form; the largest entry of each column is its pivot."""
    rows = rows / np.abs(rows).max() if rows.size else rows
    rank = 0
    for column in range(rows.shape[1]):
        if rank == len(rows):
            break
        pivot = rank + int(np.abs(rows[rank:, column]).argmax())
        if abs(rows[pivot, column]) < 1e-2 * np.abs(rows[pivot]).max():
            continue
        rows[[rank, pivot]] = rows[[pivot, rank]]
        rows[rank] = rows[rank] / rows[rank, column]
        others = np.arange(len(rows)) != rank
        rows[others] -= np.outer(rows[others, column], rows[rank])
        rank += 1
    return rows[:rank]


def _without_traces(module: nn.Module, call: Callable[[nn.Module], Any]) -> Any:
    """`call(module)` with copies of the buffers, so that running statistics stay what they are."""
    copies = {f"module.{name}": each.detach().clone() for name, each in module.named_buffers()}
    with torch.enable_grad():
        return functional_call(Called(module, call), copies, ())


@contextlib.contextmanager
def _as_in_training(module: nn.Module, batch_statistics: bool) -> Iterator[None]:
    modes = {child: child.training for child in module.modules()}
    by_batch = batch_norms(module) if batch_statistics else []
    module.eval()
    for norm in by_batch:
        norm.training = True
    try:
        with several_values(by_batch):
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode


def _floating(outputs: Any) -> list[torch.Tensor]:
    """Every differentiable tensor among the outputs. Raises SoundingError when there is none."""
    waiting, found = [outputs], list[torch.Tensor]()
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, torch.Tensor) and value.requires_grad:
            found.append(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
    if not found:
        raise SoundingError("no output of the network depends on its parameters; do not detach in `forward`.")
    return found


def _row_count(tensor: torch.Tensor) -> int:
    return tensor.shape[0] if tensor.ndim > 1 else 1


def _row_norms(tensor: torch.Tensor) -> Floats:
    flat = tensor.detach().reshape(_row_count(tensor), -1).double()
    return np.asarray(torch.linalg.vecdot(flat, flat).sqrt().cpu().numpy())
