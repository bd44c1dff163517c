"""The pass `linear_path`: the loss along the straight line from one checkpoint's weights to another's."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from sounding.contract import Metric, Unavailable, shared_pass
from sounding.curvature.conditions import CONDITIONS
from sounding.estimates import Estimate
from sounding.passes.elsewhere import Elsewhere, Statistics, mixed
from sounding.passes.other import Other
from sounding.passes.predictions import Predictions, SplitPredictions, weighted_mean
from sounding.passes.symmetries import Symmetries
from sounding.records import Curve, Finding, Reading

Of = Literal["loss", "error"]
Above = Literal["mean", "line"]

_MEAN = "Frankle et al. 2020, arXiv:1912.05671: greatest on the path minus the mean of both ends"
_LINE = "Entezari et al. 2022, arXiv:2110.06296: greatest excess over the straight line between both ends"
_POINTS = "; at the points of the path, standard error from paired differences of examples"

PATH_METRICS = (
    Metric("loss", "loss", "mean loss, by share of the way from the other checkpoint (0) to this one (1)",
           "definition", kind="curve"),
    Metric("error", "fraction", "share of wrong answers, by share of the way", "definition", kind="curve"),
    Metric("loss_barrier_mean", "loss", "greatest mean loss on the path, above the mean of both ends", _MEAN + _POINTS),
    Metric("loss_barrier_line", "loss", "greatest mean loss above the line between both ends", _LINE + _POINTS),
    Metric("error_barrier_mean", "fraction", "greatest error on the path, above the mean of both ends",
           _MEAN + _POINTS),
    Metric("error_barrier_line", "fraction", "greatest error above the line between both ends", _LINE + _POINTS),
    Metric("reestimation_effect", "loss", "mean loss of this checkpoint with BatchNorm's statistics gathered anew, "
           "minus that with the stored ones", "definition"),
    Metric("rescaled", "count", "scale-invariant weights of the other checkpoint that were brought to this one's norms",
           "definition"),
    CONDITIONS,
)  # fmt: skip


@dataclass(frozen=True)
class Barrier:
    """The height of a barrier (its error is NaN for one example), and at which share of the way it is."""

    height: Estimate
    share: float


@dataclass(frozen=True)
class LinearPath:
    """Predictions at every share of the way from the other checkpoint (0) to this one (1), both ends included.

    `stored` are this checkpoint's own with the running statistics it holds, where the path's were gathered anew.
    `conditions` say what the losses of each split rest on.
    """

    shares: tuple[float, ...]
    predictions: tuple[Predictions, ...]
    rescaled: tuple[str, ...]
    stored: Predictions | None
    conditions: Mapping[str, str]

    def along(self, split: str, of: Of) -> tuple[float, ...] | None:
        """Mean loss or share of wrong answers at every point; None where outputs are no logits of classes."""
        rows = self._rows(split, of)
        weights = self.predictions[0][split].weights
        return tuple(weighted_mean(each, weights).value for each in rows) or None

    def barrier(self, split: str, of: Of, above: Above) -> Barrier | None:
        """The highest point of the path above the mean of its ends, or above the line between them."""
        rows, heights = self._rows(split, of), self.along(split, of)
        if heights is None:
            return None
        if not all(math.isfinite(each) for each in heights):
            return Barrier(Estimate(math.nan, math.nan), math.nan)
        shares = [0.5 if above == "mean" else share for share in self.shares]
        slope = heights[-1] - heights[0]
        over = [high - heights[0] - share * slope for high, share in zip(heights, shares, strict=True)]
        top = int(np.argmax(over))
        excess = rows[top] - rows[0] - shares[top] * (rows[-1] - rows[0])
        error = weighted_mean(excess, self.predictions[0][split].weights).stderr
        return Barrier(Estimate(over[top], error), self.shares[top])

    def findings(self) -> Iterator[Finding]:
        """All of `PATH_METRICS`."""
        for split in self.predictions[0]:
            yield Reading("conditions", label=self.conditions[split], split=split)
            for of in ("loss", "error"):
                yield from self._told(split, of)
            if self.stored is not None:
                effect = self.predictions[-1][split].mean_loss().value - self.stored[split].mean_loss().value
                yield Reading("reestimation_effect", effect, split=split)
        yield Reading("rescaled", len(self.rescaled))

    def _told(self, split: str, of: Of) -> Iterator[Finding]:
        heights = self.along(split, of)
        if heights is None:
            return
        yield Curve(of, self.shares, heights, split=split)
        for above in ("mean", "line"):
            barrier = self.barrier(split, of, above)
            if barrier is not None:
                height = barrier.height
                yield Reading(f"{of}_barrier_{above}", height.value, split=split, stderr=height.error)

    def _rows(self, split: str, of: Of) -> list[torch.Tensor]:
        """Loss or wrongness of every example at every point; nothing where outputs are no logits of classes."""
        found = [_values(each[split], of) for each in self.predictions]
        known = [each for each in found if each is not None]
        return known if len(known) == len(found) else []


@shared_pass(version=3)
def linear_path(
    elsewhere: Elsewhere,
    symmetries: Symmetries,
    other: Other,
    *,
    points: int = 11,
    canonical: bool = True,
    statistics: Statistics = "reestimated",
) -> LinearPath:
    """Predictions at `points` evenly spaced ones of the line between the parameters of both checkpoints.

    With `canonical` the weights that are scale invariant in both are first brought to the same norms, slice by slice:
    else the path, and with it the barrier, would depend on scales that neither network feels. The symmetries are those
    that the pass `symmetries` measures. Running statistics are gathered anew at every point, or mixed like the weights:
    then nothing is rescaled where there are any, as weights and the statistics of their outputs go together.
    """
    there: Elsewhere = other.elsewhere
    require_alike(elsewhere.parameters, there.parameters)
    start, rescaled = dict(there.parameters), {}
    if canonical and (statistics == "reestimated" or not elsewhere.has_batch_norm):
        rescaled = common_slices(symmetries, other.symmetries)
        start.update({name: brought_to(start[name], elsewhere.parameters[name], slices)
                      for name, slices in rescaled.items()})  # fmt: skip
    shares = tuple(np.linspace(0.0, 1.0, max(points, 3)).tolist())
    found = [
        elsewhere.at(
            mixed(start, elsewhere.parameters, share), mixed(there.buffers, elsewhere.buffers, share), statistics
        )
        for share in shares
    ]
    anew = statistics == "reestimated" and elsewhere.has_batch_norm
    stored = elsewhere.at(elsewhere.parameters, statistics="stored") if anew else None
    said = {split: elsewhere.conditions(split, statistics) for split in found[0]}
    return LinearPath(shares, tuple(found), tuple(rescaled), stored, said)


def common_slices(one: Symmetries, two: Symmetries) -> dict[str, int]:
    """Weights that are scale invariant in both, and in how many runs of rows they are."""
    return {name: math.gcd(one.invariant[name].slices, two.invariant[name].slices)
            for name in one.invariant if name in two.invariant}  # fmt: skip


def brought_to(tensor: torch.Tensor, model: torch.Tensor, slices: int) -> torch.Tensor:
    """`tensor` with each of `slices` runs of its rows scaled to the norm that the run has in `model`."""
    runs, wanted = (each.reshape(slices, -1).double() for each in (tensor, model))
    own, goal = (each.square().sum(1, keepdim=True).sqrt() for each in (runs, wanted))
    factors = torch.where((own > 0) & (goal > 0), goal / own, 1.0)
    return (runs * factors).reshape(tensor.shape).to(tensor.dtype)


def _values(split: SplitPredictions, of: Of) -> torch.Tensor | None:
    if of == "loss":
        return split.losses
    return None if split.correct is None else 1.0 - split.correct


def require_alike(here: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor]) -> None:
    """Raise Unavailable unless both have parameters of the same names and shapes."""
    differing = [name for name in here if name not in there or there[name].shape != here[name].shape]
    differing += [name for name in there if name not in here]
    if differing:
        raise Unavailable(
            f"no line leads from one to the other: `{differing[0]}` has another shape there, or is not there at all"
        )
