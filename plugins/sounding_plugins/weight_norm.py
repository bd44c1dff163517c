"""Norms of the weights, from the checkpoint alone."""

import math
from collections.abc import Iterator

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.numbers import pieces
from sounding.passes import Weights


def _metric(name: str, meaning: str, unit: str = "weight") -> Metric:
    return Metric(name, unit=unit, meaning=meaning, source="definition; sums in float64")


@plugin(
    version=1,
    metrics=[
        _metric("frobenius", "Frobenius norm of the tensor, the square root of its sum of squares"),
        _metric("rms", "root mean square of the tensor's elements"),
        _metric("max_abs", "largest absolute value in the tensor"),
        _metric("zeros", "share of the tensor's elements that are exactly zero", unit="fraction"),
        _metric("nonfinite", "elements of the tensor that are NaN or infinite", unit="count"),
        _metric("total", "Frobenius norm of all parameters taken as one vector, tied ones once"),
    ],
)
def weight_norm(weights: Weights, *, matrices_only: bool = False) -> Iterator[Finding]:
    """Norms of every parameter and of the whole network; needs neither model code nor data.

    `matrices_only` leaves out tensors with fewer than two dimensions (biases, normalisation scales); the total
    always counts every parameter.
    """
    for name, reason in weights.left_out.items():
        yield Skip(reason, part=name)
    parameters = weights.parameters()
    if not parameters:
        yield Skip("the network has no floating-point parameters")
        return
    total = 0.0
    for name, tensor in parameters.items():
        squares, largest, zeros, nonfinite = _sums(tensor)
        total += squares
        count = tensor.numel()
        if count == 0 or (matrices_only and tensor.ndim < 2):
            continue
        yield Reading("frobenius", math.sqrt(squares), part=name)
        yield Reading("rms", math.sqrt(squares / count), part=name)
        yield Reading("max_abs", largest, part=name)
        yield Reading("zeros", zeros / count, part=name)
        yield Reading("nonfinite", nonfinite, part=name)
    yield Reading("total", math.sqrt(total))


def _sums(tensor: torch.Tensor) -> tuple[float, float, int, int]:
    """Sum of squares, largest absolute value, zeros and non-finite elements, in one pass over the chunks."""
    squares, largest = 0.0, 0.0
    zeros = nonfinite = 0
    for piece in pieces(tensor):
        chunk = piece.double()
        squares += float(torch.dot(chunk, chunk))
        # Comparing needs no precision: in float32 it is twice as fast, but 8-bit types cannot be compared at all.
        plain = piece if piece.dtype == torch.float32 else chunk
        low, high = torch.aminmax(plain)
        largest = float(torch.tensor([largest, abs(float(low)), abs(float(high))], dtype=torch.float64).max())
        zeros += plain.numel() - int(plain.count_nonzero())
        nonfinite += 0 if math.isfinite(squares) and math.isfinite(largest) else int((~chunk.isfinite()).sum())
    return squares, largest, zeros, nonfinite
