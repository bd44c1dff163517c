"""Which weights the network does not feel the scale of, measured with the model."""

from collections.abc import Iterator

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import Magnitudes, Symmetries, Weights, layers_of

_SOURCE = "symmetry matrix S = <w, d(r.f)/dw>, zero by Euler's theorem where f does not depend on |w|"


@plugin(
    version=1,
    cost="gradient",
    metrics=[
        Metric(
            "departure",
            unit="1",
            meaning="derivative of the outputs with respect to the log of the weight's scale, over |w||g|",
            source=_SOURCE,
        ),
        Metric(
            "slices",
            unit="count",
            meaning="equal runs of rows that are scale invariant each by itself; only of scale-invariant weights",
            source=_SOURCE,
        ),
        Metric(
            "scale_invariant_total",
            unit="weight",
            meaning="Frobenius norm of all scale-invariant weights taken as one vector",
            source="Kodryan et al. 2022, arXiv:2209.03695",
        ),
        Metric(
            "exponent",
            unit="1",
            meaning="c of a joint rescaling w -> a^c w that leaves the network as it is; index numbers the rescalings",
            source="null space of the symmetry matrix in reduced row echelon form",
        ),
    ],
)
def symmetry(symmetries: Symmetries, weights: Weights, magnitudes: Magnitudes) -> Iterator[Finding]:
    """Scale-invariant weights and joint rescalings, on a few examples of the probe, with BatchNorm as in training."""
    layers = layers_of({name: weights.shape(name) for name in weights}, ordered=weights.ordered)
    for name, departure in symmetries.departures.items():
        layer = layers.get(name)
        place = (layer.kind, layer.depth) if layer is not None else ("", None)
        yield Reading("departure", departure, part=name, kind=place[0], depth=place[1])
        if name in symmetries.invariant:
            slices = symmetries.invariant[name].slices
            yield Reading("slices", slices, part=name, kind=place[0], depth=place[1])
    for name in symmetries.without_effect:
        yield Skip("it moves no output of these examples, so nothing can be said", part=name)
    for index, exponents in enumerate(symmetries.joint):
        for name, exponent in exponents.items():
            yield Reading("exponent", exponent, part=name, index=index)
    if symmetries.invariant:
        norm = symmetries.invariant.norm(magnitudes)
        yield Reading("scale_invariant_total", norm, kind=symmetries.invariant.method)
