"""How alike the representations of a network's layers are."""

from collections.abc import Iterator
from itertools import combinations

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.geometry.similarity import FEWEST, debiased_cka, procrustes_distance
from sounding.passes import Representations


@plugin(
    version=1,
    cost="data",
    metrics=[
        Metric("cka_debiased", "1", "alignment of two layers' representations of the same examples; part names both",
               "linear CKA, Kornblith et al. 2019, of Song et al. 2012's unbiased HSIC as in Nguyen et al. 2021; "
               "standard error by a jackknife over ten groups of examples"),
        Metric("procrustes_distance", "1", "least squared distance over rotations, both centred and of norm 1; 0 to 2; "
               "part names both layers", "Ding et al. 2021, arXiv:2108.01661"),
    ],
)  # fmt: skip
def layer_similarity(representations: Representations, *, most_layers: int = 12) -> Iterator[Finding]:
    """Debiased CKA and Procrustes distance between every two layers; of more than `most_layers`, evenly spread ones."""
    names = [name for name in representations if bool(representations[name].isfinite().all())]
    for name in representations:
        if name not in names:
            yield Skip("NaN or infinity among its activations", part=name)
    if len(representations.ids) < FEWEST or len(names) < 2:
        yield Skip(f"{len(names)} layers of {len(representations.ids)} examples; it takes 2 and {FEWEST}")
        return
    if len(names) > most_layers:
        names = [names[place * (len(names) - 1) // (most_layers - 1)] for place in range(most_layers)]
    for one, other in combinations(names, 2):
        found = debiased_cka(representations[one], representations[other])
        part = f"{one} ~ {other}"
        if found.value != found.value:
            yield Skip("a representation does not vary, or too little for so few examples", part=part)
        else:
            yield Reading("cka_debiased", found.value, part=part, split=representations.split, stderr=found.error)
        distance = procrustes_distance(representations[one], representations[other])
        if distance == distance:
            yield Reading("procrustes_distance", distance, part=part, split=representations.split)
