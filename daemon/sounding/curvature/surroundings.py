"""How far the mean loss rises around a checkpoint: at worst within a ball or an ellipsoid, and on average.

The ball is {δ : ‖T⁻¹δ‖₂ ≤ ρ} with T = 1, or T = diag|w|, whose ball turns with a rescaling of units that leaves the
network as it is, and with it every number here that is called adaptive; or, by the norm "linf", the box |T⁻¹δ|∞ ≤ ρ.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch

from sounding.contract import Unavailable
from sounding.curvature.hessian import slopes_of
from sounding.curvature.objective import Objective

Norm: TypeAlias = Literal["l2", "linf"]

_SETTLED = 1e-3  # of a rise: the ascent ends when a step adds less


@dataclass(frozen=True, slots=True)
class Rise:
    """A rise of the mean loss that was found, after so many steps; NaN where the loss or its gradient is not finite."""

    height: float
    steps: int
    settled: bool


class Surroundings:
    """The mean loss of an objective, and its gradient, as functions of an offset from the parameters.

    `chunks` are the ranges of examples to go through at once; `weights` are the parameters as a flat vector.
    """

    def __init__(self, objective: Objective, chunks: Sequence[range]) -> None:
        self.objective = objective
        self.chunks = chunks
        self.weights = torch.cat([each.detach().reshape(-1) for each in objective.leaves])

    @cached_property
    def here(self) -> tuple[float, torch.Tensor]:
        """The mean loss of all chunks at the checkpoint, and its gradient; not to be written to."""
        return self.gradient()

    def loss(self, offset: torch.Tensor | None = None, chunks: Sequence[range] | None = None) -> float:
        """The mean loss at an offset (none: at the checkpoint)."""
        return self.objective.mean_at(self._leaves(offset), self.chunks if chunks is None else chunks)

    def gradient(
        self, offset: torch.Tensor | None = None, chunks: Sequence[range] | None = None
    ) -> tuple[float, torch.Tensor]:
        """The mean loss at an offset, and its gradient there. Raises Unavailable where every loss weighs nothing."""
        leaves = [each.requires_grad_() for each in self._leaves(offset)]
        loss = weight = 0.0
        total = torch.zeros_like(self.weights)
        with self.objective.prepared(), torch.enable_grad():
            for chunk in self.chunks if chunks is None else chunks:
                found = self.objective.evaluate(chunk, leaves)
                loss, weight = loss + found.loss, weight + found.weight
                for part, slope in zip(
                    self.objective.layout.views(total), slopes_of(found.total, leaves, graph=False), strict=True
                ):
                    if slope is not None:
                        part.add_(slope)
        if weight == 0:
            raise Unavailable("every loss weight of a batch is zero, so it has no mean loss")
        return loss / weight, total.div_(weight)

    def batches(self, size: int) -> Iterator[list[range]]:
        """The examples in groups of `size`, each in ranges of at most a chunk's length; a rest is left out."""
        count, most = len(self.objective.positions), len(self.chunks[0])
        for start in range(0, count - size + 1, size):
            yield [range(at, min(at + most, start + size)) for at in range(start, start + size, most)]

    def _leaves(self, offset: torch.Tensor | None) -> list[torch.Tensor]:
        flat = self.weights if offset is None else self.weights + offset
        return [part.clone() for part in self.objective.layout.views(flat)]


def one_step(
    around: Surroundings,
    radius: float,
    scale: torch.Tensor | None = None,
    chunks: Sequence[range] | None = None,
    norm: Norm = "l2",
) -> Rise:
    """The rise at ρ·T²g/‖Tg‖, or ρ·T·sign(g) by "linf", where the linearised loss is highest: SAM's step, or ASAM's.

    It is negative where the loss bends down within ρ, and 0 where no direction is steepest.
    """
    base, slope = around.here if chunks is None else around.gradient(None, chunks)
    if not _finite(base, slope):
        return Rise(math.nan, 0, False)
    offset = _farthest(slope, radius, scale, norm)
    return Rise(0.0, 0, True) if offset is None else Rise(around.loss(offset, chunks) - base, 1, True)


def ascent(around: Surroundings, radius: float, scale: torch.Tensor | None = None, *, steps: int) -> Rise:
    """The largest rise that repeated steps to the highest point of the linearised loss find; a lower bound of all.

    On a convex loss each step rises (it is Frank and Wolfe's method for a maximum, with full steps), so there is no
    step size to choose; elsewhere the best point on the way counts, the checkpoint itself among them. It has settled
    where a step adds next to nothing; not where one leads down, nor at a gradient of 0, which points nowhere.
    """
    base, slope = around.here
    if not _finite(base, slope):
        return Rise(math.nan, 0, False)
    best = 0.0
    for taken in range(1, steps + 1):
        offset = _farthest(slope, radius, scale)
        if offset is None:
            return Rise(best, taken - 1, False)
        loss, slope = (around.loss(offset), slope) if taken == steps else around.gradient(offset)
        height = loss - base
        if not math.isfinite(height):
            return Rise(height, taken, False)
        change, best = height - best, max(best, height)
        if not _finite(loss, slope):
            return Rise(best, taken, False)
        if taken > 1 and change <= _SETTLED * abs(height):
            return Rise(best, taken, change >= -_SETTLED * abs(height))
    return Rise(best, steps, False)


def average_rises(
    around: Surroundings, deviation: float, scale: torch.Tensor | None, draws: int, seed: int
) -> list[float]:
    """Rises at N(0, σ²T²) offsets, each the mean of one and its opposite, which cancels what is odd in it."""
    base, _ = around.here
    generator = torch.Generator().manual_seed(seed)
    found: list[float] = []
    for _ in range(draws):
        offset = torch.randn(len(around.weights), generator=generator).to(around.weights).mul_(deviation)
        if scale is not None:
            offset *= scale
        found.append((around.loss(offset) + around.loss(-offset)) / 2 - base)
    return found


def _farthest(slope: torch.Tensor, radius: float, scale: torch.Tensor | None, norm: Norm = "l2") -> torch.Tensor | None:
    """The δ of the ball with the largest gᵀδ; None where the gradient, or all of it that δ may follow, is zero."""
    scaled = slope if scale is None else slope * scale
    length = float(torch.linalg.vector_norm(scaled.double()))
    if length == 0.0:
        return None
    if norm == "linf":
        return (scaled.sign() if scale is None else scaled.sign() * scale) * radius
    return (scaled if scale is None else scaled * scale) * (radius / length)


def _finite(loss: float, slope: torch.Tensor) -> bool:
    return math.isfinite(loss) and bool(torch.isfinite(slope).all())
