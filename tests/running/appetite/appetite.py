"""A plugin that measures its own worker: how many threads its libraries take, and how it gives way to others."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy
import torch

from sounding import Metric, Reading, plugin
from sounding.passes import Weights

METRICS = [
    Metric(name, unit="1", meaning="what this worker takes", source="definition")
    for name in ("torch_threads", "numpy_threads", "niceness", "waits_asleep")
]


@plugin(version=1, metrics=METRICS)
def appetite(weights: Weights) -> Iterator[Reading]:
    """What the worker takes of the machine."""
    before = threads()
    square = numpy.ones((512, 512))
    assert (square @ square)[0, 0] == 512  # large enough for every thread that the library has
    yield Reading("numpy_threads", 1.0 + threads() - before)
    yield Reading("torch_threads", float(torch.get_num_threads()))
    yield Reading("niceness", float(os.nice(0)))
    yield Reading("waits_asleep", float(os.environ.get("OMP_WAIT_POLICY") == "PASSIVE"))


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
