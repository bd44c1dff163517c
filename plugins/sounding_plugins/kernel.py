"""The empirical neural tangent kernel of a checkpoint: its size, its spectrum, and how it lies to the targets."""

from collections.abc import Iterator

from sounding import Curve, Finding, Metric, Reading, Skip, plugin
from sounding.kernels import Floats, alignment, alignment_by_chance, captured, centred, eigenvalues, gram_of
from sounding.passes import TangentKernel
from sounding.records import Quality
from sounding.spectra import effective_rank

_NTK = "Jacot, Gabriel and Hongler 2018; trace over the outputs"
_KTA = "Cortes, Mohri and Rostamizadeh 2012, def. 4 (centred kernel alignment)"


@plugin(
    version=1,
    cost="gradient",
    metrics=[
        Metric("target_alignment", "1", "cosine between the centred kernel and that of the targets", _KTA),
        Metric("target_alignment_by_chance", "1", "its mean over all permutations of the targets", "derived exactly"),
        Metric("trace", "output²/weight²", "tr K/n: mean squared norm of an example's Jacobian", _NTK),
        Metric("lambda_max", "output²/weight²", "largest eigenvalue of K/n", _NTK),
        Metric("effective_rank", "1", "exp of the entropy of the normalised eigenvalues", "Roy and Vetterli 2007"),
        Metric("participation_ratio", "1", "squared sum over sum of squares of the eigenvalues", "definition"),
        Metric("spectrum", "output²/weight²", "eigenvalue of K/n by rank, from the largest", _NTK, kind="curve"),
        Metric("target_power", "fraction", "share of the centred targets in the leading eigenvectors of the centred "
               "kernel, by their number", "Canatar, Bordelon and Pehlevan 2021", kind="curve"),
        Metric("examples", "count", "examples in the kernel", "definition"),
        Metric("outputs", "count", "outputs of the network for one example", "definition"),
        Metric("directions", "count", "directions of the outputs that were gone through", "definition"),
        Metric("forwards", "example", "forward passes taken, counted in examples", "definition"),
        Metric("backwards", "example", "backward passes taken, counted in examples and directions", "definition"),
    ],
)  # fmt: skip
def kernel(tangent_kernel: TangentKernel) -> Iterator[Finding]:
    """Neural tangent kernel on a few hundred examples of the train split: spectrum and alignment with the targets."""
    matrix, method = tangent_kernel.matrix, tangent_kernel.method
    quality = tangent_kernel.quality
    for metric in ("outputs", "directions", "forwards", "backwards"):
        yield Reading(metric, getattr(tangent_kernel, metric), kind=method)
    yield Reading("examples", len(matrix), kind=method)
    values = eigenvalues(matrix)
    if not values[0] > 0:
        yield Skip("no trainable parameter moves an output, or gradients are not finite: there is no spectrum")
        return
    yield Reading("trace", float(values.sum()), quality=quality)
    yield Reading("lambda_max", float(values[0]), quality=quality)
    yield Reading("effective_rank", effective_rank(values), quality=quality)
    yield Reading("participation_ratio", float(values.sum() ** 2 / (values**2).sum()), quality=quality)
    yield Curve("spectrum", tuple(map(float, range(1, len(values) + 1))), tuple(values.tolist()), quality=quality)
    targets = tangent_kernel.targets()
    if targets is None:
        yield Skip("targets are neither one class per example nor one number per output: nothing to align with")
        return
    yield from _aligned(centred(matrix), centred(gram_of(targets)), quality)


def _aligned(inner: Floats, targets: Floats, quality: Quality) -> Iterator[Finding]:
    if not (inner.any() and targets.any()):
        yield Skip("all targets, or all gradients, of these examples are equal: nothing to align")
        return
    yield Reading("target_alignment", alignment(inner, targets), quality=quality)
    yield Reading("target_alignment_by_chance", alignment_by_chance(inner, targets), quality=quality)
    shares = captured(inner, targets)
    yield Curve("target_power", tuple(map(float, range(1, len(shares) + 1))), tuple(shares.tolist()), quality=quality)
