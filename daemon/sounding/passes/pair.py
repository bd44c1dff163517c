"""The pass `pair`: the weights of two checkpoints, matched by name and shape and gone through side by side, once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from sounding.contract import shared_pass
from sounding.numbers import CHUNK, arrays, gram, inner
from sounding.passes.other import Other
from sounding.passes.weights import Weights


@dataclass(frozen=True)
class Moments:
    """Sums over a tensor x that became y, with d = y - x; `floor` is the sum of squares that rounding alone gives d."""

    before: float = 0.0  # x·x
    after: float = 0.0  # y·y
    change: float = 0.0  # d·d
    growth: float = 0.0  # d·(x + y) = y·y - x·x, without the cancellation
    floor: float = 0.0
    count: int = 0  # elements

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.before + other.before,
            self.after + other.after,
            self.change + other.change,
            self.growth + other.growth,
            self.floor + other.floor,
            self.count + other.count,
        )

    @property
    def norm_change(self) -> float:
        """‖y‖ - ‖x‖."""
        norms = math.sqrt(self.before) + math.sqrt(self.after)
        return self.growth / norms if norms else 0.0

    @property
    def sideways(self) -> float:
        """What is left of d·d without the change of the norm: the part that turns the tensor."""
        left = self.change - self.norm_change**2
        return 0.0 if left < 0.0 else left  # not `max`, which would make a number of what is none

    @property
    def angle(self) -> float:
        """The angle between x and y in radians, exact far below the root of the machine epsilon; NaN if one is 0."""
        norms = math.sqrt(self.before) * math.sqrt(self.after)
        half = 0.5 * math.sqrt(self.sideways / norms) if norms else math.nan
        return 2.0 * math.asin(1.0 if half > 1.0 else half)

    @property
    def cosine_loss(self) -> float:
        """1 - cos(angle), which keeps its digits where the cosine is almost 1."""
        norms = math.sqrt(self.before) * math.sqrt(self.after)
        return self.sideways / (2.0 * norms) if norms else math.nan

    @property
    def resolved(self) -> bool:
        """Whether the turn is larger than what rounding to the stored types makes of no turn at all."""
        return self.sideways >= self.floor


@dataclass(frozen=True)
class Pair:
    """`moments` of every parameter that both checkpoints have in one shape, in the later one's order.

    `unmatched` says why any other is not compared; "preceding" there means the second checkpoint.
    """

    moments: Mapping[str, Moments]
    unmatched: Mapping[str, str]

    @property
    def total(self) -> Moments:
        """All matched parameters taken as one vector."""
        return sum(self.moments.values(), Moments())


@shared_pass(version=1)
def pair(weights: Weights, other: Other) -> Pair:
    """Sums over the parameters of both checkpoints, from which norms, changes and rotations follow."""
    before: Weights = other.weights
    now, then = weights.parameters(), before.parameters()
    moments: dict[str, Moments] = {}
    unmatched: dict[str, str] = {}
    for name in now:
        if name not in then:
            unmatched[name] = "it is not in the preceding checkpoint"
        elif before.shape(name) != weights.shape(name):
            was, is_now = list(before.shape(name)), list(weights.shape(name))
            unmatched[name] = f"its shape was {was} in the preceding checkpoint and is {is_now} now"
        else:
            moments[name] = moments_of(then[name], now[name])
    unmatched.update({name: "it is in the preceding checkpoint only" for name in then if name not in now})
    return Pair(moments, unmatched)


@np.errstate(over="ignore", invalid="ignore")
def moments_of(before: torch.Tensor, after: torch.Tensor) -> Moments:
    """All sums in one pass over two tensors of one shape, a piece at a time."""
    # Of float32 every narrower type is a part. One buffer serves all pieces: to get a new one each time takes longer.
    exact = torch.float64 if torch.float64 in (before.dtype, after.dtype) else torch.float32
    buffer = torch.empty(min(CHUNK, before.numel()), dtype=exact).numpy()
    xx = yy = dd = dx = 0.0
    for x, y in zip(arrays(before, exact), arrays(after, exact), strict=True):
        d = np.subtract(y, x, out=buffer[: len(x)])
        squares, cross, changes = gram(x, d)
        after_squares = squares + 2.0 * cross + changes
        if not after_squares > (squares + changes) / 16.0:  # much was cancelled, or it is not a number
            after_squares = inner(y, y)
        xx, yy, dd, dx = xx + squares, yy + after_squares, dd + changes, dx + cross
    floor = rounding(before.dtype) ** 2 * xx + rounding(after.dtype) ** 2 * yy
    return Moments(xx, yy, dd, 2.0 * dx + dd, floor, before.numel())  # d·(x + y), as x + y = 2x + d


def rounding(dtype: torch.dtype) -> float:
    """Root mean square error of rounding to `dtype`, relative to the root mean square of the values.

    An error uniform within one unit in the last place has variance ulp²/12; averaged over how values fall between
    powers of two (mantissas spread as on a slide rule) that is eps²·3/(8 ln 2)/12 = eps²/(32 ln 2).
    """
    return float(torch.finfo(dtype).eps / math.sqrt(32.0 * math.log(2.0)))
