"""Weights that look like no training wrote them: constant, zero at the end, not finite."""

from collections.abc import Iterator

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.numbers import pieces
from sounding.passes import Weights


def _count(name: str, meaning: str) -> Metric:
    return Metric(name, unit="count", meaning=meaning, source="definition")


@plugin(
    version=1,
    metrics=[
        _count("tensors", "parameters that were looked at, tied ones once"),
        _count("zero_tensors", "parameters all of whose elements are zero"),
        _count("constant_tensors", "parameters of two or more elements that are all equal, and not zero"),
        _count("nonfinite_tensors", "parameters with an element that is NaN or infinite"),
        _count("cut_tensors", "parameters that end in `longest_tail` zeros or more, and are not zero as a whole"),
        Metric("constant", unit="weight", meaning="the value of all elements of a constant parameter",
               source="definition"),
        Metric("zero_tail", unit="fraction", meaning="share of the elements that are zeros at the end of a cut one",
               source="definition"),
    ],
)  # fmt: skip
def health(weights: Weights, *, longest_tail: int = 1024) -> Iterator[Finding]:
    """Signs of weights that were never trained or not written whole, in parameters stored row by row.

    A file that was preallocated and not filled ends in zeros; `longest_tail` elements of them are no accident.
    """
    counts = dict.fromkeys(("zero_tensors", "constant_tensors", "nonfinite_tensors", "cut_tensors"), 0)
    parameters = weights.parameters()
    for name, tensor in parameters.items():
        if tensor.numel() == 0:
            yield Skip("it has no elements", part=name)
            continue
        low, high, finite, tail = _look(tensor)
        counts["nonfinite_tensors"] += not finite
        if low == high == 0.0 and finite:
            counts["zero_tensors"] += 1
        elif tail >= longest_tail:
            counts["cut_tensors"] += 1
            yield Reading("zero_tail", tail / tensor.numel(), part=name)
        elif low == high and finite and tensor.numel() > 1:
            counts["constant_tensors"] += 1
            yield Reading("constant", low, part=name)
    yield Reading("tensors", len(parameters))
    for metric, count in counts.items():
        yield Reading(metric, count)


def _look(tensor: torch.Tensor) -> tuple[float, float, bool, int]:
    """Least and greatest finite element (0 without one), whether all are finite, and how many zeros are at the end."""
    lows, highs = [], []
    finite, tail = True, 0
    for piece in pieces(tensor):
        chunk = piece.double()
        real = chunk[chunk.isfinite()]
        finite = finite and real.numel() == chunk.numel()
        if real.numel():
            low, high = torch.aminmax(real)
            lows.append(float(low))
            highs.append(float(high))
        filled = chunk.nonzero()
        tail = tail + chunk.numel() if filled.numel() == 0 else chunk.numel() - 1 - int(filled[-1])
    return min(lows, default=0.0), max(highs, default=0.0), finite, tail
