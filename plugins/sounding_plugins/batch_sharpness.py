"""How curved mini-batch losses are along their own gradients, which is what a stochastic step feels."""

from collections.abc import Iterator

import numpy as np

from sounding import Checkpoint, Finding, Metric, Reading, Skip, plugin
from sounding.curvature.batches import MiniBatch
from sounding.curvature.conditions import CONDITIONS
from sounding.estimates import Estimate, mean_of
from sounding.passes import Around, StoredOptimizer, rates_of
from sounding.records import Quality

_SOURCE = "Andreyev and Beneventano 2024, arXiv:2412.20553"


@plugin(
    version=2,
    cost="curvature",
    metrics=[
        Metric("batch_sharpness", "loss/weight²", "mean over batches of gᵀHg/gᵀg, g and H of the batch's own loss",
               _SOURCE),
        Metric("batch_sharpness_ratio", "loss/weight²", "mean of gᵀHg over mean of gᵀg, over batches; standard error "
               "by linearisation", _SOURCE),
        Metric("stability_ratio", "1", "batch_sharpness over 2/η; settles about 1 at the edge of stochastic stability",
               _SOURCE + ", for SGD without momentum"),
        Metric("batch_size", "count", "examples of a batch", "the run's attribute, or the setting"),
        Metric("batches", "count", "batches measured, without replacement", "definition"),
        CONDITIONS,
    ],
)  # fmt: skip
def batch_sharpness(
    surroundings: Around, stored_optimizer: StoredOptimizer, checkpoint: Checkpoint, *, draws: int = 32
) -> Iterator[Finding]:
    """Curvature along the gradient in batches of the training size, BatchNorm normalising by each as in training."""
    size = surroundings.batch_size
    if not size:
        yield Skip(
            "the size of a training batch is not known: give the run an attribute `batch_size`, or set batch_size in "
            "[passes.surroundings]"
        )
        return
    pairs = surroundings.in_batches(size).each(draws, MiniBatch.along_gradient)
    curved, steep = (np.array(each) for each in zip(*pairs, strict=True))
    if not np.all(np.isfinite(curved) & np.isfinite(steep)):
        yield Skip("the gradient of a batch, or its product with the Hessian, is NaN or infinite")
        return
    if not np.all(steep > 0.0):
        yield Skip("the gradient of a batch is zero: it has no direction to be curved along")
        return
    mean = mean_of(curved / steep)
    ratio = float(curved.mean() / steep.mean())
    yield Reading("conditions", label=surroundings.batch_conditions(size, draws), split="train")
    yield Reading("batch_sharpness", mean.value, split="train", stderr=mean.error)
    spread = mean_of((curved - ratio * steep) / steep.mean()).error
    yield Reading("batch_sharpness_ratio", ratio, split="train", stderr=spread)
    yield Reading("batch_size", size)
    yield Reading("batches", len(pairs))
    yield from _stability(mean, stored_optimizer, checkpoint)


def _stability(mean: Estimate, stored: StoredOptimizer, checkpoint: Checkpoint) -> Iterator[Finding]:
    if stored.found is None:
        yield Skip(f"stability_ratio: {stored.reason}")
        return
    groups = stored.found.groups
    rates = rates_of(groups, checkpoint.progress)
    rate = rates.values[0] if len(set(rates.values)) == 1 else None
    if rate is None or any(group.kind != "sgd" or group.number("momentum") for group in groups):
        yield Skip("stability_ratio: known for SGD without momentum at one learning rate only")
        return
    quality: Quality = "ok" if rates.certain else "unresolved"
    scale = rate / 2.0
    error = None if mean.error is None else mean.error * scale
    yield Reading("stability_ratio", mean.value * scale, stderr=error, quality=quality)
