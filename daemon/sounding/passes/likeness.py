"""The pass `likeness`: how alike the representations of two checkpoints are, layer by layer, on the same examples."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sounding.contract import Metric, Unavailable, shared_pass
from sounding.estimates import Estimate
from sounding.geometry.similarity import FEWEST, biased_cka, debiased_cka, procrustes_distance
from sounding.passes.other import Other
from sounding.passes.representations import Representations
from sounding.records import Finding, Reading, Skip

CKA = "linear CKA, Kornblith et al. 2019, of Song et al. 2012's unbiased HSIC as in Nguyen et al. 2021"
ERROR = "; standard error by a jackknife over ten groups of examples"

LIKENESS_METRICS = (
    Metric("cka_debiased", "1", "alignment of the representations of the same examples, 1 up to rotation and scale, "
           "about 0 when unrelated", CKA + ERROR),
    Metric("cka_biased", "1", "alignment with the biased estimate, which grows with the width",
           "Kornblith et al. 2019"),
    Metric("procrustes_distance", "1", "least squared distance over rotations, both centred and of norm 1; 0 to 2",
           "Ding et al. 2021, arXiv:2108.01661"),
    Metric("examples", "count", "examples that both have", "definition"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Likenesses:
    """How alike two representations are."""

    cka: Estimate
    cka_biased: float
    procrustes_distance: float


class Likeness:
    """Likenesses of the same layer in both checkpoints, and why some layers have none."""

    def __init__(self, layers: Mapping[str, Likenesses], missing: Mapping[str, str], split: str, examples: int) -> None:
        self.layers, self.missing = layers, missing
        self.split, self.examples = split, examples

    def findings(self) -> Iterator[Finding]:
        """All of `LIKENESS_METRICS`, a layer at a time."""
        yield Reading("examples", self.examples, split=self.split)
        for name, reason in self.missing.items():
            yield Skip(reason, part=name)
        for name, each in self.layers.items():
            yield from told(each, name, self.split)


def told(each: Likenesses, part: str, split: str) -> Iterator[Finding]:
    """The readings of one pair of representations."""
    if math.isnan(each.procrustes_distance):
        yield Skip("a representation is the same for all examples", part=part)
        return
    if math.isnan(each.cka.value):
        yield Skip("cka_debiased: the examples are too few to tell the representations from noise", part=part)
    else:
        yield Reading("cka_debiased", each.cka.value, part=part, split=split, stderr=each.cka.error)
    yield Reading("cka_biased", each.cka_biased, part=part, split=split)
    yield Reading("procrustes_distance", each.procrustes_distance, part=part, split=split)


@shared_pass(version=1)
def likeness(representations: Representations, other: Other) -> Likeness:
    """By example: the rows of the examples that both checkpoints' probes have are compared."""
    there: Representations = other.representations
    here_rows, there_rows = representations.shared_with(there)
    if len(here_rows) < FEWEST:
        raise Unavailable(f"the probes of both checkpoints share {len(here_rows)} examples, and it takes {FEWEST}")
    missing = {name: "it is in this checkpoint only" for name in representations if name not in there}
    found: dict[str, Likenesses] = {}
    for name in representations:
        if name in there:
            x, y = representations[name][here_rows], there[name][there_rows]
            if bool(x.isfinite().all()) and bool(y.isfinite().all()):
                found[name] = Likenesses(debiased_cka(x, y), biased_cka(x, y), procrustes_distance(x, y))
            else:
                missing[name] = "NaN or infinity among its activations"
    return Likeness(found, {**representations.missing, **missing}, representations.split, len(here_rows))
