"""How far representations have turned since the preceding checkpoint."""

from collections.abc import Iterator

from sounding import Finding, plugin
from sounding.passes import LIKENESS_METRICS, Likeness


@plugin(version=1, over="pair", against="previous", cost="data", metrics=LIKENESS_METRICS)
def similarity(likeness: Likeness) -> Iterator[Finding]:
    """Debiased CKA and Procrustes distance of every layer to the preceding checkpoint's, on the same examples."""
    yield from likeness.findings()
