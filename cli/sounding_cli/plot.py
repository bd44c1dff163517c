"""Series as a plot of the terminal."""

import math
from collections.abc import Sequence
from typing import Any

import plotext

from sounding_cli.series import Series

_HEIGHT = 18  # lines, axes included
_TICKS = 7
_MARKERS = "ox+*#"  # without colour, series are told apart by their marks


def plotted(series: Sequence[Series], width: int, *, colour: bool) -> str:
    """The series of one metric over their steps, in one plot; values that are not finite are left out."""
    canvas: Any = plotext.figure
    canvas.clear()
    canvas.theme("simple" if colour else "colorless")
    canvas.plot_size(width, _HEIGHT)
    canvas.title(" ".join(filter(None, (series[0].name, series[0].unit))))
    canvas.label("step", "x")
    canvas.ruler("x").ticks(_ticks(sorted({step for one in series for step, _ in _points(one)})))
    several = sum(bool(_points(one)) for one in series) > 1
    for place, one in enumerate(series):
        points = _points(one)
        if points:
            steps, values = map(list, zip(*points, strict=True))
            plain = not colour and several
            marker = _MARKERS[place % len(_MARKERS)] if plain else "braille"
            signal = canvas.signal(steps, values, marker=marker)
            signal = signal if plain else signal.lines()
            canvas.draw(signal.label(one.detail) if one.detail else signal)
    if _falls(series):
        canvas.legend(x=canvas.size()[0] - 16, ha="right")  # as wide as the terminal lets it be, less the ticks
    text: str = canvas.build().string(colorless=not colour)
    return text


def _points(series: Series) -> list[tuple[int, float]]:
    pairs = zip(series.steps, series.values, strict=True)
    return [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]


def _falls(series: Sequence[Series]) -> bool:
    """Whether most series go down, so that the upper right is free for the legend."""
    ends = [points[-1][1] - points[0][1] for points in map(_points, series) if points]
    return sum(end < 0 for end in ends) > len(ends) / 2


def _ticks(steps: Sequence[int]) -> list[int]:
    """At most seven of the steps measured, evenly spread, for the axis."""
    stride = max(1, -(-(len(steps) - 1) // (_TICKS - 1)))
    return list(steps[::stride])
