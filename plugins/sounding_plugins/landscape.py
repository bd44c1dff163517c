"""Slices of the loss through a checkpoint: along its gradient, random filter-normalised directions and Hessian axes."""

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch

from sounding import Curve, Finding, Metric, Reading, Skip, Unavailable, plugin
from sounding.curvature.conditions import CONDITIONS, conditions_of
from sounding.passes import CurvatureRun, Elsewhere, offset
from sounding.passes.elsewhere import Statistics
from sounding.passes.predictions import Predictions

Direction = Mapping[str, torch.Tensor]
Plane = Literal["filter", "hessian", "none"]

_LI = "Li et al. 2018, arXiv:1712.09913: each filter of the direction has the norm of the network's"
_AXES = "unit eigenvectors of the Hessian's largest eigenvalues, times the norm of the weights"
_STATISTICS = '; BatchNorm\'s statistics gathered anew at every point, unless statistics is "stored"'


@plugin(
    version=2,
    cost="curvature",
    metrics=[
        Metric("loss_gradient", "loss", "mean loss along the gradient, by offset over the norm of the weights",
               "definition" + _STATISTICS, kind="curve"),
        Metric("loss_filter", "loss", "mean loss along a random direction, by multiples of filter norms",
               _LI + _STATISTICS, kind="curve"),
        Metric("loss_hessian", "loss", "mean loss along a Hessian axis, by offset over the norm of the weights; part "
               "names the axis", _AXES + _STATISTICS, kind="curve"),
        Metric("loss_plane", "loss", "mean loss over a plane: a curve over the first direction for each offset along "
               "the second, which part states", _LI + "; or " + _AXES + _STATISTICS, kind="curve"),
        Metric("rise_filter", "loss", "mean of the loss at both ends of loss_filter, less the loss between", _LI),
        Metric("rise_hessian", "loss", "the same of loss_hessian", _AXES),
        CONDITIONS,
    ],
)  # fmt: skip
def landscape(
    elsewhere: Elsewhere,
    curvature_run: CurvatureRun,
    *,
    points: int = 15,
    filter_extent: float = 1.0,
    extent: float = 0.1,
    axes: int = 2,
    plane: Plane = "none",
    plane_points: int = 11,
    statistics: Statistics = "reestimated",
    seed: int = 0,
) -> Iterator[Finding]:
    """The loss of every split along lines, and over a `plane` where one is wanted, on a fixed sample.

    There are at most as many `axes` as [passes.curvature_run] looks for. `extent` is how far lines along the gradient
    and the axes reach to either side, over the norm of the weights.
    """
    slices = _Slices(elsewhere, statistics)
    parameters = elsewhere.parameters
    norm = math.sqrt(sum(float(each.double().square().sum()) for each in parameters.values()))
    if not math.isfinite(norm):
        yield Skip("a weight is NaN or infinite: there is nothing around it")
        return
    first, second = (filter_direction(parameters, seed + number) for number in (0, 1))
    yield from slices.conditions()
    yield from slices.line("loss_filter", first, filter_extent, points, rise="rise_filter")
    if plane == "filter":
        yield from slices.plane(first, second, filter_extent, plane_points)
    try:
        gradient, vectors = _from_curvature(curvature_run, axes)
    except Unavailable as reason:
        yield Skip(f"gradient and Hessian axes: {reason}")
        return
    yield Reading("conditions", label=conditions_of(curvature_run.curvature.hessian().facts), split="train",
                  kind="hessian")  # fmt: skip
    if not len(vectors) and axes:
        yield Skip("Hessian axes: every second derivative is zero")
    layout = curvature_run.curvature.layout
    steep = float(gradient.double().norm())
    if steep:
        direction = layout.named(gradient * (norm / steep))
        yield from slices.line("loss_gradient", direction, extent, points)
    directions = [layout.named(vector * norm) for vector in vectors]
    for number, axis in enumerate(directions):
        name = f"axis {number + 1}"
        yield from slices.line("loss_hessian", axis, extent, points, part=name, rise="rise_hessian")
    if plane == "hessian" and len(directions) >= 2:
        yield from slices.plane(directions[0], directions[1], extent, plane_points)


class _Slices:
    def __init__(self, elsewhere: Elsewhere, statistics: Statistics) -> None:
        self._elsewhere = elsewhere
        self._statistics: Statistics = statistics

    def conditions(self) -> Iterator[Finding]:
        """What the slices of each split rest on."""
        for split in self._elsewhere.examples:
            yield Reading("conditions", label=self._elsewhere.conditions(split, self._statistics), split=split)

    def line(
        self, metric: str, direction: Direction, extent: float, points: int, part: str = "", rise: str = ""
    ) -> Iterator[Finding]:
        """The curve from -extent to extent; `rise` names how far its ends lie above its middle."""
        grid = _grid(extent, points)
        found = [self._at(self._elsewhere.parameters, direction, length) for length in grid]
        for split in found[0]:
            heights = tuple(each[split].mean_loss().value for each in found)
            yield Curve(metric, tuple(grid), heights, part=part, split=split)
            if rise:
                height = (heights[0] + heights[-1]) / 2 - heights[len(heights) // 2]
                yield Reading(rise, height, part=part, split=split)

    def plane(self, first: Direction, second: Direction, extent: float, points: int) -> Iterator[Finding]:
        """A curve over the first direction for each offset along the second."""
        grid = _grid(extent, points)
        for away in grid:
            base = offset(self._elsewhere.parameters, second, away)
            found = [self._at(base, first, length) for length in grid]
            for split in found[0]:
                heights = tuple(each[split].mean_loss().value for each in found)
                yield Curve("loss_plane", tuple(grid), heights, part=f"{away:+.4g}", split=split)

    def _at(self, base: Direction, direction: Direction, length: float) -> Predictions:
        return self._elsewhere.at(offset(base, direction, length), statistics=self._statistics)


def filter_direction(parameters: Direction, seed: int) -> dict[str, torch.Tensor]:
    """A Gaussian direction in which every filter (slice along the first dimension) has the norm of the weights' own.

    Biases and the parameters of norms, which have one dimension, stay where they are.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in parameters.items():
        if tensor.ndim < 2 or not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator).to(tensor).reshape(len(tensor), -1)
        lengths = tensor.reshape(len(tensor), -1).norm(dim=1, keepdim=True)
        found[name] = (noise * (lengths / noise.norm(dim=1, keepdim=True))).reshape(tensor.shape)
    return found


def _from_curvature(run: CurvatureRun, axes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient, and unit eigenvectors of the largest eigenvalues, in evaluation mode."""
    gradient = run.curvature.gradient()
    found = run.directions() if axes else None
    if found is None or not any(found.values):
        return gradient, gradient.new_empty(0, len(gradient))
    return gradient, found.vectors[:axes].to(gradient)


def _grid(extent: float, points: int) -> list[float]:
    """An odd number of points, so that the checkpoint itself is one of them."""
    found: list[float] = np.linspace(-extent, extent, max(3, points | 1)).tolist()
    return found
