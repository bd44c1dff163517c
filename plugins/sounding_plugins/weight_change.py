"""How far the weights moved since the preceding checkpoint, and how far they turned."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.numbers import chunks
from sounding.passes import Other, Weights
from sounding.records import Quality

_RESOLUTION = "stored precision's rounding floor, eps/sqrt(32 ln 2) per checkpoint: below it the status is unresolved"


@dataclass(frozen=True)
class Moments:
    """Sums over a tensor x that became y, with d = y - x; `floor` is the mean square that rounding alone gives d."""

    before: float = 0.0  # x·x
    after: float = 0.0  # y·y
    change: float = 0.0  # d·d
    growth: float = 0.0  # d·(x + y) = y·y - x·x, without the cancellation
    floor: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.before + other.before,
            self.after + other.after,
            self.change + other.change,
            self.growth + other.growth,
            self.floor + other.floor,
        )

    @property
    def norm_change(self) -> float:
        """‖y‖ - ‖x‖."""
        norms = math.sqrt(self.before) + math.sqrt(self.after)
        return self.growth / norms if norms else 0.0

    @property
    def angle(self) -> float:
        """The angle between x and y in radians; exact for angles far below the square root of the machine epsilon."""
        norms = math.sqrt(self.before) * math.sqrt(self.after)
        sideways = max(0.0, self.change - self.norm_change**2)
        return 2.0 * math.asin(min(1.0, 0.5 * math.sqrt(sideways / norms)))


@plugin(
    version=1,
    over="pair",
    against="previous",
    metrics=[
        Metric("relative_change", unit="1", meaning="norm of the change over the norm before", source="definition"),
        Metric(
            "rotation",
            unit="rad",
            meaning="angle between the tensor before and after, taken as vectors",
            source="2 asin(sqrt((|d|^2 - (change of norm)^2) / (|x||y|)) / 2), accurate for small angles; "
            + _RESOLUTION,
        ),
        Metric("absolute_change", unit="weight", meaning="norm of the change", source="definition"),
        Metric("norm_change", unit="weight", meaning="norm after minus norm before", source="d.(x+y) / (|x| + |y|)"),
    ],
)
def weight_change(weights: Weights, other: Other) -> Iterator[Finding]:
    """Change of every parameter and of the whole network since the preceding checkpoint of the run."""
    before: Weights = other.weights
    now, then = weights.parameters(), before.parameters()
    total = Moments()
    matched = 0
    for name, tensor in now.items():
        problem = _unmatched(name, tensor, then)
        if problem:
            yield Skip(problem, part=name)
            continue
        moments = moments_of(then[name], tensor)
        total, matched = total + moments, matched + 1
        yield from _readings(moments, name)
    for name in then:
        if name not in now:
            yield Skip("it is in the preceding checkpoint only", part=name)
    if matched:
        yield from _readings(total, "")


def moments_of(before: torch.Tensor, after: torch.Tensor) -> Moments:
    """All sums in one pass, in float64, a chunk at a time."""
    xx = yy = dd = growth = 0.0
    for x, y in zip(chunks(before), chunks(after), strict=True):
        d = y - x
        squares = float(torch.dot(d, d))
        xx += float(torch.dot(x, x))
        yy += float(torch.dot(y, y))
        dd += squares
        growth += 2.0 * float(torch.dot(d, x)) + squares  # d·(x + y), as x + y = 2x + d
    return Moments(xx, yy, dd, growth, rounding(before.dtype) ** 2 * xx + rounding(after.dtype) ** 2 * yy)


def rounding(dtype: torch.dtype) -> float:
    """Root mean square error of rounding to `dtype`, relative to the root mean square of the values.

    An error uniform within one unit in the last place has variance ulp²/12; averaged over how values fall between
    powers of two (mantissas spread as on a slide rule) that is eps²·3/(8 ln 2)/12 = eps²/(32 ln 2).
    """
    return torch.finfo(dtype).eps / math.sqrt(32.0 * math.log(2.0))


def _readings(moments: Moments, part: str) -> Iterator[Finding]:
    quality: Quality = "unresolved" if moments.change < moments.floor else "ok"
    yield Reading("absolute_change", math.sqrt(moments.change), part=part, quality=quality)
    yield Reading("norm_change", moments.norm_change, part=part, quality=quality)
    if moments.before == 0.0:
        yield Skip("all zero in the preceding checkpoint, so its relative change and rotation are undefined", part=part)
        return
    yield Reading("relative_change", math.sqrt(moments.change / moments.before), part=part, quality=quality)
    if moments.after == 0.0:
        yield Skip("all zero now, so its rotation is undefined", part=part)
        return
    # Growth does not turn a tensor: rounding must be compared with the change's sideways share alone.
    turned = moments.change - moments.norm_change**2
    resolved: Quality = "unresolved" if turned < moments.floor else "ok"
    yield Reading("rotation", moments.angle, part=part, quality=resolved)


def _unmatched(name: str, tensor: torch.Tensor, then: Mapping[str, torch.Tensor]) -> str:
    if name not in then:
        return "it is not in the preceding checkpoint"
    if then[name].shape != tensor.shape:
        return f"its shape was {list(then[name].shape)} in the preceding checkpoint and is {list(tensor.shape)} now"
    return ""
