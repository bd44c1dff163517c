"""Numbers as text: how many digits a column of them deserves, and a series in the height of one line."""

import math
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "×"  # where a series is infinite or not a number

_SIGNIFICANT = 4  # digits of the greatest value of a column
_LEAST = 2  # digits of the smallest that is not zero
_DECIMALS = 6  # more than these, and the column is written with exponents


def figures(values: Sequence[float | None]) -> list[str]:
    """Texts of equal precision for one column: decimals shared, so that right-aligned points stand below each other.

    The greatest value has four significant digits and the smallest at least two; a column that would need more
    than six decimals, or reaches a million with a fraction, is written with exponents. Whole numbers stay whole.
    """
    finite = [abs(value) for value in values if value is not None and math.isfinite(value)]
    sizes = [size for size in finite if size > 0]
    if all(size == int(size) and size < 1e15 for size in finite):
        return [_write(value, ".0f") for value in values]
    great, small = _exponent(max(sizes)), _exponent(min(sizes))
    decimals = max(_SIGNIFICANT - 1 - great, _LEAST - 1 - small, 0)
    if decimals > _DECIMALS or great >= 6:
        return [_write(value, f".{_SIGNIFICANT - 1}e") for value in values]
    return [_write(value, f".{decimals}f") for value in values]


def figure(value: float | None) -> str:
    """One number by itself."""
    return figures([value])[0]


def sparkline(values: Sequence[float | None], width: int = 24) -> str:
    """A series as bars between its least and greatest value; longer series are averaged into `width` bars."""
    series = _thinned(values, width)
    finite = [value for value in series if value is not None and math.isfinite(value)]
    if not finite:
        return "".join(" " if value is None else NOT_FINITE for value in series)
    low, high = min(finite), max(finite)
    return "".join(_bar(value, low, high) for value in series)


def size_text(size: float) -> str:
    """A number of bytes as people say it: 512 B, 1.4 MB, 12 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _exponent(size: float) -> int:
    return math.floor(math.log10(size))


def _write(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _bar(value: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    if not math.isfinite(value):
        return NOT_FINITE
    if high == low:
        return BARS[3]
    # Divided first: the difference of two huge values overflows.
    place = (value / 2 - low / 2) / (high / 2 - low / 2)
    return BARS[min(int(place * len(BARS)), len(BARS) - 1)]


def _thinned(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    return [_mean(values[start:end]) for start, end in pairwise(edges)]


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
