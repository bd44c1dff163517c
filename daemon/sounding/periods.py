"""Jumps of a series that otherwise declines, and whether they come at regular intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Jump:
    """A rise after a decline, as rows of the series: the decline's `start`, its `bottom`, and the rise's `top`."""

    start: int
    bottom: int
    top: int
    over: bool  # whether the series has fallen again since, as far as it takes to call that a decline


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Intervals between jumps: their mean with its standard error, and their standard deviation over the mean."""

    mean: float
    stderr: float
    variation: float


@dataclass(frozen=True, slots=True)
class Destabilisation:
    """A jump of the norm of weights that decay had shrunk."""

    jump: Jump
    begin: float  # when the norm begins to rise
    length: float
    decline: float  # how long it declined before
    predicted: (
        float  # how long decay alone, at a rate r, takes for that: ln(norm before / norm after) / r; NaN: unknown
    )

    @property
    def pace(self) -> float:
        """Speed of the decline over that of decay alone: 1 where no gradient held against it, near 0 in the balance."""
        return self.predicted / self.decline


def destabilisations(times: Floats, norms: Floats, decays: Floats, rise: float) -> list[Destabilisation]:
    """Every rise of the log of the norm by `rise` after a decline by as much.

    `decays` are the shares of a weight that decay takes per unit of time. With an effective learning rate η/|w|^p,
    `predicted` is ln(peak/trough)/(pr) at a constant η.
    """
    logs = np.log(norms)
    found: list[Destabilisation] = []
    for jump in find_jumps(logs, rise):
        within = decays[jump.start : jump.bottom + 1]
        known = within[np.isfinite(within)]
        rate = float(known.mean()) if len(known) else 0.0
        predicted = float(logs[jump.start] - logs[jump.bottom]) / rate if rate > 0.0 else math.nan
        begin, start, end = (float(times[row]) for row in (jump.bottom, jump.start, jump.top))
        found.append(Destabilisation(jump, begin, end - begin, begin - start, predicted))
    return found


def find_jumps(values: Sequence[float] | Floats, least: float) -> list[Jump]:
    """Every rise by at least `least` from the lowest value of a decline by at least `least`, in order.

    Turning points are those of a zigzag: a smaller move against the present direction counts for nothing. A series
    that begins with a rise has no jump there, as nothing declined before. Values must be finite.
    """
    jumps: list[Jump] = []
    low = high = 0  # rows of the extremes since the last turn
    direction, start, bottom = 0, 0, -1
    for row in range(1, len(values)):
        low, high = (row if values[row] < values[low] else low), (row if values[row] > values[high] else high)
        if direction >= 0 and values[high] - values[row] >= least:  # a decline, since `high`
            if bottom >= 0:
                jumps.append(Jump(start, bottom, high, True))
            direction, start, low = -1, high, row
        elif direction <= 0 and values[row] - values[low] >= least:  # a rise, since `low`
            bottom = low if direction < 0 else -1
            direction, high = 1, row
    if direction > 0 and bottom >= 0:
        jumps.append(Jump(start, bottom, high, False))
    return jumps


def rhythm_of(times: Sequence[float] | Floats) -> Rhythm | None:
    """The intervals between so many moments, in their order; None of fewer than three moments, which tell no spread."""
    intervals = np.diff(np.asarray(times, dtype=np.float64))
    if len(intervals) < 2:
        return None
    mean, deviation = float(intervals.mean()), float(intervals.std(ddof=1))
    return Rhythm(mean, deviation / math.sqrt(len(intervals)), deviation / mean)
