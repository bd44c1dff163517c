"""The straight line from the preceding checkpoint of the run to this one, and the barrier on it."""

from collections.abc import Iterator

from sounding import Finding, plugin
from sounding.passes import PATH_METRICS, LinearPath


@plugin(version=2, over="pair", against="previous", cost="gradient", metrics=PATH_METRICS)
def interpolation(linear_path: LinearPath) -> Iterator[Finding]:
    """Loss and error on the line from the preceding checkpoint's weights, and its barrier by two definitions."""
    yield from linear_path.findings()
