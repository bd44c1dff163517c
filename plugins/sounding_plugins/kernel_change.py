"""How far the neural tangent kernel turned since the preceding checkpoint."""

from collections.abc import Iterator

from sounding import Checkpoint, Finding, Metric, Reading, plugin
from sounding.kernels import centred, kernel_distance
from sounding.passes import Other, TangentKernel, updates_between
from sounding.records import Quality

_FORT = "Fort et al. 2020, Deep learning versus kernel learning"


@plugin(
    version=1,
    over="pair",
    against="previous",
    cost="gradient",
    metrics=[
        Metric("kernel_distance", "1", "1 minus the cosine between the two kernels", _FORT),
        Metric("centred_kernel_distance", "1", "the same of the centred kernels, 1 minus their CKA",
               "Cortes, Mohri and Rostamizadeh 2012; Kornblith et al. 2019"),
        Metric("kernel_velocity", "1/update", "kernel_distance over the updates between", _FORT),
    ],
)  # fmt: skip
def kernel_change(tangent_kernel: TangentKernel, checkpoint: Checkpoint, other: Other) -> Iterator[Finding]:
    """Distance between the neural tangent kernels of a checkpoint and the preceding one, on the same examples."""
    before: TangentKernel = other.tangent_kernel
    quality: Quality = "ok" if tangent_kernel.exact else "unconverged"
    distance = kernel_distance(before.matrix, tangent_kernel.matrix)
    inner = kernel_distance(centred(before.matrix), centred(tangent_kernel.matrix))
    yield Reading("kernel_distance", distance, quality=quality)
    yield Reading("centred_kernel_distance", inner, quality=quality)
    updates = updates_between(other.checkpoint, checkpoint)
    if updates is not None:
        yield Reading("kernel_velocity", distance / updates, quality=quality)
