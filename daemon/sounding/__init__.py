"""Sounding watches checkpoints of training jobs, measures them, and keeps the readings where anyone can query them."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sounding.asking.notebook import Soundings
    from sounding.contract import Accumulator, Mergeable, Metric, Run, Unavailable, accumulator, plugin, shared_pass
    from sounding.errors import SoundingError
    from sounding.records import Checkpoint, Curve, Finding, Reading, Skip
    from sounding.tap import Tap

__all__ = [
    "Accumulator",
    "Checkpoint",
    "Curve",
    "Finding",
    "Mergeable",
    "Metric",
    "Reading",
    "Run",
    "Skip",
    "SoundingError",
    "Tap",
    "Unavailable",
    "accumulator",
    "open",
    "plugin",
    "shared_pass",
]
__version__ = "0.1.0"

_PLACES = {
    "sounding.contract": (
        "Accumulator",
        "Mergeable",
        "Metric",
        "Run",
        "Unavailable",
        "accumulator",
        "plugin",
        "shared_pass",
    ),
    "sounding.errors": ("SoundingError",),
    "sounding.records": ("Checkpoint", "Curve", "Finding", "Reading", "Skip"),
    "sounding.tap": ("Tap",),
}


def __getattr__(name: str) -> object:
    """What authors import from here, loaded when it is: a command that asks for results needs none of it."""
    for place, names in _PLACES.items():
        if name in names:
            return getattr(import_module(place), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open(results: "str | Path") -> "Soundings":
    """The results under a directory, to be queried with SQL: `sounding.open(".sounding").sql("FROM runs")`.

    Raises SoundingError when there is no such directory.
    """
    from sounding.asking.notebook import open_results  # DuckDB is for those who query, not for every `import sounding`

    return open_results(results)
