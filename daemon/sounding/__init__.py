"""Sounding watches checkpoints of training jobs, measures them, and keeps the readings where anyone can query them."""

from sounding.plugin import Accumulator, Metric, Run, Unavailable, accumulator, plugin, shared_pass
from sounding.records import Checkpoint, Curve, Finding, Reading, Skip, SoundingError

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
    "plugin",
    "shared_pass",
]
__version__ = "0.1.0"
