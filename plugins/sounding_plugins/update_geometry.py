"""How the change since the preceding checkpoint lies to the weights: along them, across them, and among their rows."""

import math
from collections.abc import Iterator

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import Moments, Other, Pair, Weights
from sounding.records import Quality

_ADAMP = "AdamP, Heo et al. 2021, with the change of the weights in place of one update"
_HOYER = "Hoyer 2004, J. Mach. Learn. Res. 5, 1457, of the norms of the rows"


@plugin(
    version=1,
    over="pair",
    against="previous",
    metrics=[
        Metric("radial", unit="weight", meaning="part of the change along the weights before, positive outwards",
               source=_ADAMP),
        Metric("tangential", unit="weight", meaning="part of the change across the weights before", source=_ADAMP),
        Metric("cosine", unit="1", meaning="cosine of the angle between the change and the weights before",
               source=_ADAMP),
        Metric("cosine_scaled", unit="1", meaning="|cosine| x sqrt(elements): about 0.8 where directions are random",
               source=_ADAMP),
        Metric("row_sparsity", unit="1", meaning="how unequal the norms of the rows are: 0 all equal, 1 all but one 0",
               source=_HOYER),
        Metric("row_sparsity_drift", unit="1", meaning="row_sparsity now minus before; weights that are normalised "
               "with exponential scales drift to sparse rows", source=_HOYER + "; Morwani and Ramaswamy 2022"),
    ],
)  # fmt: skip
def update_geometry(pair: Pair, weights: Weights, other: Other) -> Iterator[Finding]:
    """Radial and tangential parts of the change of every parameter, and the drift of its rows to sparsity."""
    before: Weights = other.weights
    for name, reason in pair.unmatched.items():
        yield Skip(reason, part=name)
    for name, moments in pair.moments.items():
        yield from _directions(moments, name)
        if len(weights.shape(name)) >= 2:
            yield from _rows(before[name], weights[name], name)
    if pair.moments:
        yield from _directions(pair.total, "")


def _directions(moments: Moments, part: str) -> Iterator[Finding]:
    if moments.before == 0.0:
        yield Skip("all zero in the preceding checkpoint: it has no direction", part=part)
        return
    quality: Quality = "unresolved" if moments.change < moments.floor else "ok"
    along = (moments.growth - moments.change) / 2  # d·x, as d·(x + y) = 2 d·x + d·d
    radial = along / math.sqrt(moments.before)
    across = moments.change - radial**2
    yield Reading("radial", radial, part=part, quality=quality)
    yield Reading("tangential", math.sqrt(across) if across > 0.0 else 0.0, part=part, quality=quality)
    if moments.change == 0.0:
        yield Skip("it did not change: the change has no direction", part=part)
        return
    cosine = radial / math.sqrt(moments.change)
    yield Reading("cosine", cosine, part=part, quality=quality)
    yield Reading("cosine_scaled", abs(cosine) * math.sqrt(moments.count), part=part, quality=quality)


def _rows(before: torch.Tensor, after: torch.Tensor, part: str) -> Iterator[Finding]:
    was, now = row_sparsity(before), row_sparsity(after)
    if now is None:
        return
    yield Reading("row_sparsity", now, part=part)
    if was is not None:
        yield Reading("row_sparsity_drift", now - was, part=part)


def row_sparsity(tensor: torch.Tensor) -> float | None:
    """Hoyer's measure of the rows' norms, (sqrt n - |r|_1/|r|_2) / (sqrt n - 1); None of one row, or of zeros."""
    matrix = tensor.detach().reshape(tensor.shape[0], -1)
    count = matrix.shape[0]
    if count < 2 or matrix.shape[1] == 0:
        return None
    step = max(1, (1 << 20) // matrix.shape[1])
    blocks = [matrix[start : start + step].double().square().sum(1) for start in range(0, count, step)]
    squares = torch.cat(blocks)
    length = float(squares.sum().sqrt())
    if length == 0.0 or not math.isfinite(length):
        return None
    return (math.sqrt(count) - float(squares.sqrt().sum()) / length) / (math.sqrt(count) - 1)
