"""How far the mean loss rises around a checkpoint: at worst within a ball or an ellipsoid, and on average.

The ball is {δ : ‖T⁻¹δ‖₂ ≤ ρ} with T = 1, or T = diag|w|, whose ball turns with a rescaling of units that leaves the
network as it is, and with it every number here that is called adaptive.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from sounding.curvature.hessian import slopes_of
from sounding.curvature.objective import Objective

_SETTLED = 1e-3  # of a rise: the ascent ends when a step adds less


@dataclass(frozen=True, slots=True)
class Rise:
    """The largest rise of the mean loss that was found, after so many gradients; a lower bound of the largest."""

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
        """The mean loss at an offset, and its gradient there."""
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
    around: Surroundings, radius: float, scale: torch.Tensor | None = None, chunks: Sequence[range] | None = None
) -> Rise:
    """The rise at ρ·T²g/‖Tg‖, where the linearised loss is highest: SAM's step, or ASAM's."""
    return ascent(around, radius, scale, steps=1, chunks=chunks)


def ascent(
    around: Surroundings,
    radius: float,
    scale: torch.Tensor | None = None,
    *,
    steps: int,
    chunks: Sequence[range] | None = None,
) -> Rise:
    """The rise that repeated steps to the highest point of the linearised loss find.

    On a convex loss each step rises (it is Frank and Wolfe's method for a maximum, with full steps), so there is no
    step size to choose; elsewhere the best point on the way counts.
    """
    base, slope = around.here if chunks is None else around.gradient(None, chunks)
    best, settled, taken = 0.0, False, 0
    for taken in range(1, steps + 1):
        offset = _farthest(slope, radius, scale)
        if offset is None:
            return Rise(best, taken - 1, True)
        if taken == steps:
            height = around.loss(offset, chunks) - base
        else:
            loss, slope = around.gradient(offset, chunks)
            height = loss - base
        if not math.isfinite(height):
            return Rise(height, taken, False)
        settled = taken > 1 and height - best <= _SETTLED * abs(height)
        best = max(best, height)
        if settled:
            break
    return Rise(best, taken, settled)


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


def _farthest(slope: torch.Tensor, radius: float, scale: torch.Tensor | None) -> torch.Tensor | None:
    """The δ of the ball with the largest gᵀδ; None where the gradient is zero or not finite."""
    scaled = slope if scale is None else slope * scale
    length = float(torch.linalg.vector_norm(scaled.double()))
    if length == 0.0 or not math.isfinite(length):
        return None
    return (scaled if scale is None else scaled * scale) * (radius / length)
