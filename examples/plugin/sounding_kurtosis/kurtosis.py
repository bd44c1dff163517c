"""Excess kurtosis of every weight matrix: outliers that make a network hard to quantise."""

from collections.abc import Iterator

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import Weights


@plugin(
    version=1,
    metrics=[
        Metric(
            "excess_kurtosis",
            unit="1",
            meaning="fourth central moment over the squared variance, minus 3: 0 for a Gaussian, -1.2 for a uniform",
            source="definition (Fisher); population moments in float64",
        )
    ],
)
def kurtosis(weights: Weights, *, smallest: int = 16) -> Iterator[Finding]:
    """Tail weight of every matrix with at least `smallest` elements."""
    for name, tensor in weights.parameters().items():
        if tensor.ndim < 2:
            continue
        if tensor.numel() < smallest:
            yield Skip(f"has {tensor.numel()} elements, fewer than {smallest}", part=name)
            continue
        centred = tensor.double() - tensor.double().mean()
        variance = centred.square().mean()
        if variance == 0:
            yield Skip("all its elements are equal", part=name)
            continue
        yield Reading("excess_kurtosis", float(torch.mean(centred**4) / variance**2 - 3), part=name)
