"""Two plugins of one name, and one whose option is given a wrong type by the configuration."""

from collections.abc import Iterator

from sounding import Finding, Metric, Reading, plugin
from sounding.passes import Weights

ONE = [Metric("one", unit="", meaning="one", source="arithmetic")]


@plugin(version=1, metrics=ONE)
def counts(weights: Weights, *, top_k: int = 1) -> Iterator[Finding]:
    """Has an option of type int."""
    yield Reading("one", float(top_k))


def _make() -> object:
    @plugin(version=1, metrics=ONE)
    def twin(weights: Weights) -> Iterator[Finding]:
        """One of two."""
        yield Reading("one", 1.0)

    return twin


first = _make()
second = _make()
