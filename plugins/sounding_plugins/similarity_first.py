"""How far representations have turned since the first checkpoint of the run."""

from collections.abc import Iterator

from sounding import Finding, plugin
from sounding.passes import LIKENESS_METRICS, Likeness


@plugin(version=1, over="pair", against="first", cost="data", metrics=LIKENESS_METRICS)
def similarity_first(likeness: Likeness) -> Iterator[Finding]:
    """Debiased CKA and Procrustes distance of every layer to the first checkpoint's, on the same examples."""
    yield from likeness.findings()
