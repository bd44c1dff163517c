"""What should not have happened between two checkpoints: nothing changed, or types and shapes did."""

from collections.abc import Iterator

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.numbers import pieces
from sounding.passes import Other, Weights


def _count(name: str, meaning: str) -> Metric:
    return Metric(name, unit="count", meaning=meaning, source="definition")


@plugin(
    version=1,
    over="pair",
    against="previous",
    metrics=[
        _count("identical_tensors", "parameters whose bytes are those of the preceding checkpoint"),
        Metric("identical_share", unit="fraction", meaning="share of the elements that they hold", source="definition"),
        Metric("training", unit="label", kind="label", source="definition",
               meaning="moving: no parameter is identical; partly stuck: some are; stuck: all are"),
        _count("dtype_changes", "parameters stored in another type than in the preceding checkpoint"),
        _count("shape_changes", "parameters of another shape than in the preceding checkpoint"),
        _count("vanished", "parameters of the preceding checkpoint that are not in this one"),
        _count("appeared", "parameters that were not in the preceding checkpoint"),
        Metric("dtype", unit="label", kind="label", meaning="type before and now, where it changed",
               source="definition"),
        Metric("shape", unit="label", kind="label", meaning="shape before and now, where it changed",
               source="definition"),
    ],
)  # fmt: skip
def health_change(weights: Weights, other: Other) -> Iterator[Finding]:
    """Stuck training, and changes of type or shape along a run; tensors are matched by name."""
    then: Weights = other.weights
    now, before = weights.parameters(), then.parameters()
    common = [name for name in now if name in before]
    if not common:
        yield Skip("the two checkpoints have no parameter of the same name")
        return
    same = elements = held = 0
    types: list[Finding] = []
    shapes: list[Finding] = []
    for name in common:
        x, y = before[name], now[name]
        if x.dtype != y.dtype:
            types.append(Reading("dtype", label=f"{_plain(x.dtype)} → {_plain(y.dtype)}", part=name))
        if x.shape != y.shape:
            shapes.append(Reading("shape", label=f"{list(x.shape)} → {list(y.shape)}", part=name))
        elements += y.numel()
        if identical(x, y):
            same, held = same + 1, held + y.numel()
    yield from types
    yield from shapes
    yield Reading("identical_tensors", same)
    yield Reading("identical_share", held / elements if elements else 1.0)
    yield Reading("training", label=_training(same, len(common)))
    yield Reading("dtype_changes", len(types))
    yield Reading("shape_changes", len(shapes))
    yield Reading("vanished", len(before) - len(common))
    yield Reading("appeared", len(now) - len(common))


def identical(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether two tensors hold the same bytes; NaN is equal to the same NaN, 0 is not -0."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    pairs = zip(pieces(x), pieces(y), strict=True)
    return all(torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) for a, b in pairs)


def _training(same: int, count: int) -> str:
    if same == 0:
        return "moving"
    return "stuck" if same == count else "partly stuck"


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
