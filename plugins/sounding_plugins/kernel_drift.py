"""How far the neural tangent kernel and the weights went since the first checkpoint: lazy or rich training."""

import math
from collections.abc import Iterator

import numpy as np

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import KERNEL_METRICS, Linearisation, Other, Pair, TangentKernel

_CHIZAT = "Chizat, Oyallon and Bach 2019, On lazy training in differentiable programming"
_STILL = 1e-3  # relative change of the outputs below which rounding decides what their linearisation missed


@plugin(
    version=1,
    over="pair",
    against="first",
    cost="gradient",
    metrics=[
        *KERNEL_METRICS,
        Metric("relative_kernel_change", "1", "Frobenius norm of the kernel's change over that of the first", _CHIZAT),
        Metric("relative_distance", "1", "distance of the parameters from the first checkpoint over their norm there",
               "definition"),
        Metric("relative_output_change", "1", "norm of the outputs' change over that of the first", "definition"),
        Metric("linearisation_error", "1", "share of the outputs' change that the network linearised at the first "
               "checkpoint does not make: 0 lazy", _CHIZAT),
        Metric("regime", "label", "lazy, intermediate, rich, or unmoved, by linearisation_error", _CHIZAT, "label"),
    ],
)  # fmt: skip
def kernel_drift(
    tangent_kernel: TangentKernel,
    pair: Pair,
    linearisation: Linearisation,
    other: Other,
    *,
    lazy_below: float = 0.1,
    rich_above: float = 0.5,
) -> Iterator[Finding]:
    """Neural tangent kernel, weights and outputs against those of the run's first checkpoint.

    `lazy_below` and `rich_above` are bounds of `linearisation_error`: below the one training is called lazy, above
    the other rich, intermediate between them.
    """
    first, now = other.tangent_kernel.matrix, tangent_kernel.matrix
    yield from tangent_kernel.distances(other.tangent_kernel)
    change = float(np.linalg.norm(now - first) / np.linalg.norm(first))
    yield Reading("relative_kernel_change", change, quality=tangent_kernel.quality)
    moments = pair.total
    if moments.before > 0:
        yield Reading("relative_distance", math.sqrt(moments.change / moments.before))
    yield from _lazy_or_rich(linearisation, lazy_below, rich_above)


def _lazy_or_rich(found: Linearisation, lazy_below: float, rich_above: float) -> Iterator[Finding]:
    if found.before > 0:
        yield Reading("relative_output_change", found.change / found.before)
    if found.problem:
        yield Skip(found.problem, part="linearisation_error")
    elif found.change <= _STILL * found.before:
        yield Reading("regime", label="unmoved")
    else:
        yield Reading("linearisation_error", found.error)
        lazy, rich = found.error <= lazy_below, found.error >= rich_above
        yield Reading("regime", label="lazy" if lazy else "rich" if rich else "intermediate")
