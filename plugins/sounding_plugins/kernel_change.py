"""How far the neural tangent kernel turned since the preceding checkpoint."""

from collections.abc import Iterator

from sounding import Checkpoint, Finding, Metric, Reading, plugin
from sounding.kernels import kernel_distance
from sounding.passes import KERNEL_METRICS, Other, TangentKernel, updates_between


@plugin(
    version=1,
    over="pair",
    against="previous",
    cost="gradient",
    metrics=[
        *KERNEL_METRICS,
        Metric("kernel_velocity", "1/update", "kernel_distance over the updates between", KERNEL_METRICS[0].source),
    ],
)
def kernel_change(tangent_kernel: TangentKernel, checkpoint: Checkpoint, other: Other) -> Iterator[Finding]:
    """Distance between the neural tangent kernels of a checkpoint and the preceding one, on the same examples."""
    before: TangentKernel = other.tangent_kernel
    yield from tangent_kernel.distances(before)
    updates = updates_between(other.checkpoint, checkpoint)
    if updates is not None:
        distance = kernel_distance(before.matrix, tangent_kernel.matrix)
        yield Reading("kernel_velocity", distance / updates, quality=tangent_kernel.quality)
