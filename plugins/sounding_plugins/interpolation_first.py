"""The straight line from the first checkpoint of the run to this one, and the barrier on it."""

from collections.abc import Iterator

from sounding import Finding, plugin
from sounding.passes import PATH_METRICS, LinearPath


@plugin(version=2, over="pair", against="first", cost="gradient", metrics=PATH_METRICS)
def interpolation_first(linear_path: LinearPath) -> Iterator[Finding]:
    """Loss and error on the line from the first checkpoint's weights, and its barrier by two definitions."""
    yield from linear_path.findings()
