"""Plugins that kill, block or flood the process they run in, or the checkpoint they read."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from sounding import Checkpoint, Finding, Metric, Reading, plugin
from sounding.passes import Weights

COUNT = [Metric("count", unit="tensors", meaning="number of tensors", source="counted")]


@plugin(version=1, metrics=COUNT)
def segfaults(weights: Weights) -> Iterator[Finding]:
    """Reads address 0."""
    ctypes.string_at(0)
    yield Reading("count", len(weights))


@plugin(version=1, metrics=COUNT)
def exits(weights: Weights) -> Iterator[Finding]:
    """Leaves without a word."""
    os._exit(0)
    yield Reading("count", len(weights))


@plugin(version=1, metrics=COUNT)
def loops(weights: Weights) -> Iterator[Finding]:
    """Never ends."""
    while weights is not None:
        pass
    yield Reading("count", 0)


@plugin(version=1, metrics=COUNT)
def hoards(weights: Weights) -> Iterator[Finding]:
    """Takes memory without end."""
    hoard = []
    while weights is not None:
        hoard.append(b"x" * (1 << 26))
    yield Reading("count", len(hoard))


@plugin(version=1, metrics=COUNT)
def vandal(checkpoint: Checkpoint, weights: Weights, *, how: str = "") -> Iterator[Finding]:
    """Deletes or overwrites the checkpoint while it is read, as a rotating trainer does."""
    path = Path(checkpoint.path)
    if how == "delete":
        path.unlink()
    elif how == "overwrite":
        path.write_bytes(b"overwritten")
    elif how == "replace":
        path.with_suffix(".new").write_bytes(b"replaced")
        path.with_suffix(".new").replace(path)
    yield Reading("count", len(weights))
