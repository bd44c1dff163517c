"""A plugin that misspells its need."""

from collections.abc import Iterator

from sounding import Finding, Metric, Reading, plugin
from sounding.passes import Weights


@plugin(version=1, metrics=[Metric("one", unit="", meaning="one", source="arithmetic")])
def misspells(wieghts: Weights) -> Iterator[Finding]:
    """Needs `wieghts`."""
    yield Reading("one", 1.0)
