"""Sounding watches checkpoints of training jobs, measures them, and keeps the readings where anyone can query them."""

from pathlib import Path
from typing import TYPE_CHECKING

from sounding.plugin import Accumulator, Metric, Run, Unavailable, accumulator, plugin, shared_pass
from sounding.records import Checkpoint, Curve, Finding, Reading, Skip, SoundingError

if TYPE_CHECKING:
    from sounding.asking.notebook import Soundings

__all__ = [
    "Accumulator",
    "Checkpoint",
    "Curve",
    "Finding",
    "Metric",
    "Reading",
    "Run",
    "Skip",
    "SoundingError",
    "Unavailable",
    "accumulator",
    "open",
    "plugin",
    "shared_pass",
]
__version__ = "0.1.0"


def open(results: "str | Path") -> "Soundings":
    """The results under a directory, to be queried with SQL: `sounding.open(".sounding").sql("FROM runs")`.

    Raises SoundingError when there is no such directory.
    """
    from sounding.asking.notebook import open_results  # DuckDB is for those who query, not for every `import sounding`

    return open_results(results)
