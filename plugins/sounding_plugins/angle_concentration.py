"""How much the hidden states of a sequence's tokens point the same way."""

from collections.abc import Iterator, Sequence

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.estimates import mean_of
from sounding.passes import Angles

_GAIN = "angle concentration, Wang et al. 2025, arXiv:2506.02281, of all tokens that the attention mask admits"


@plugin(
    version=1,
    cost="data",
    metrics=[
        Metric("intra", "1", "mean cosine between the states of different tokens of a sequence, after the prefix",
               _GAIN + "; pairs of a token and itself left out"),
        Metric("inter", "1", "mean cosine between the states of the prefix's tokens and the others", _GAIN),
        Metric("across", "1", "mean cosine between the states of tokens of different sequences: what all have in "
               "common", "anisotropy, Ethayarajh 2019, arXiv:1909.00512"),
        Metric("sequences", "count", "sequences of more than one token", "definition"),
    ],
)  # fmt: skip
def angle_concentration(angles: Angles) -> Iterator[Finding]:
    """Mean cosines between hidden states within sequences, with the prefix, and across sequences, by layer."""
    for name, reason in angles.missing.items():
        yield Skip(reason, part=name)
    for split, layers in angles.splits.items():
        for layer, found in layers.items():
            yield from _mean("intra", found.intra, layer, split)
            yield from _mean("inter", found.inter, layer, split)
            if found.across is not None:
                yield Reading("across", found.across, part=layer, split=split)
            yield Reading("sequences", len(found.intra), part=layer, split=split)


def _mean(metric: str, values: Sequence[float], part: str, split: str) -> Iterator[Finding]:
    if values:
        mean = mean_of(values)
        yield Reading(metric, mean.value, part=part, split=split, stderr=mean.error)
