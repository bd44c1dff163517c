"""Loss and accuracy on the probe, and the gap between its splits."""

import math
from collections.abc import Iterator

from sounding import Finding, Metric, Reading, plugin
from sounding.estimates import Estimate
from sounding.passes import Predictions


@plugin(
    version=1,
    cost="data",
    metrics=[
        Metric(
            "loss",
            unit="loss",
            meaning="mean of the recipe's loss over a split, in evaluation mode; nats for cross-entropy",
            source="definition; standard error from the spread between examples",
        ),
        Metric(
            "accuracy",
            unit="fraction",
            meaning="share of examples (or tokens) whose greatest logit is the target's",
            source="definition; standard error from the spread between examples",
        ),
        Metric(
            "generalization_gap",
            unit="loss",
            meaning="mean loss on the held-out split minus mean loss on the train split",
            source="definition; the splits' standard errors added in quadrature",
        ),
    ],
)
def loss(predictions: Predictions) -> Iterator[Finding]:
    """Mean loss and accuracy of every split of the probe with standard errors, and the generalization gap."""
    means = {}
    for name, split in predictions.items():
        means[name] = split.mean_loss()
        yield Reading("loss", means[name].value, split=name, stderr=means[name].error)
        accuracy = split.accuracy()
        if accuracy is not None:
            yield Reading("accuracy", accuracy.value, split=name, stderr=accuracy.error)
    if "train" in means and "heldout" in means:
        train, heldout = means["train"], means["heldout"]
        gap = Estimate(heldout.value - train.value, math.hypot(train.stderr, heldout.stderr))
        yield Reading("generalization_gap", gap.value, stderr=gap.error)
