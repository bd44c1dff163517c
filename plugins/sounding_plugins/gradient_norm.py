"""How steep the loss is at a checkpoint."""

import math
from collections.abc import Iterator

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.numbers import sum_of_squares
from sounding.passes import Gradients


@plugin(
    version=1,
    cost="gradient",
    metrics=[
        Metric(
            "norm",
            unit="loss/weight",
            meaning="Euclidean norm of the mean loss's gradient with respect to one parameter tensor",
            source="definition; train split of the probe, evaluation mode",
        ),
        Metric(
            "total",
            unit="loss/weight",
            meaning="Euclidean norm of the mean loss's gradient with respect to all trainable parameters",
            source="definition; train split of the probe, evaluation mode",
        ),
    ],
)
def gradient_norm(gradients: Gradients) -> Iterator[Finding]:
    """Norm of the gradient of the mean loss over the probe's train split, per parameter and of all together."""
    total = 0.0
    for name, gradient in gradients.items():
        squares = sum_of_squares(gradient)
        total += squares
        yield Reading("norm", math.sqrt(squares), part=name, split="train")
    for name in gradients.unused:
        yield Skip("the loss does not reach it", part=name)
    yield Reading("total", math.sqrt(total), split="train")
