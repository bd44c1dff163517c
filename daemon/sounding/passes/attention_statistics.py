"""The pass `attention_statistics`: how large attention logits are on the probe, by layer and head."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import torch

from sounding.batch import AttentionCall, Batch
from sounding.contract import accumulator
from sounding.tap import Tap

_AT_ONCE = 1 << 22  # logits
_HIDDEN = -9_999.0  # added to a logit by a mask that forbids to look; the smallest one in use is -10,000


@dataclass(frozen=True, eq=False)
class LayerLogits:
    """Extremes of scale·q·k by head, over what may be looked at; float64 [heads]."""

    highest: torch.Tensor
    lowest: torch.Tensor


@dataclass(frozen=True)
class AttentionStatistics:
    """By split and layer; `missing` says why of layers that could not be tapped."""

    splits: Mapping[str, Mapping[str, LayerLogits]]
    missing: Mapping[str, str]


class AttentionStatisticsAccumulator:
    """Keeps two numbers per head."""

    def __init__(self) -> None:
        self._splits: dict[str, dict[str, LayerLogits]] = {}
        self._missing: dict[str, str] = {}

    def update(self, batch: Batch) -> None:
        """Take in one batch."""
        tapped = batch.taps["attention"]
        self._missing.update(tapped.missing)
        split = self._splits.setdefault(batch.split, {})
        for name, call in tapped.items():
            found = extremes_of(call)
            if found is not None:
                split[name] = _widened(split.get(name, found), found)

    def merge(self, other: Self) -> None:
        """Take in another one's extremes."""
        self._missing.update(other._missing)
        for name, layers in other._splits.items():
            split = self._splits.setdefault(name, {})
            for layer, found in layers.items():
                split[layer] = _widened(split.get(layer, found), found)

    def result(self) -> AttentionStatistics:
        """Everything."""
        return AttentionStatistics(self._splits, self._missing)


def extremes_of(call: AttentionCall) -> LayerLogits | None:
    """Of one attention; what a mask adds to the logits is no part of them. None where nothing may be looked at."""
    highest: list[torch.Tensor] = []
    lowest: list[torch.Tensor] = []
    for logits, seen in _parts(call):
        highest.append(torch.where(seen, logits, -torch.inf).amax((0, 2, 3)))
        lowest.append(torch.where(seen, logits, torch.inf).amin((0, 2, 3)))
    top, bottom = torch.stack(highest).amax(0), torch.stack(lowest).amin(0)
    if bool((top == -torch.inf).all()):
        return None
    return LayerLogits(top.cpu().double(), bottom.cpu().double())


def _widened(known: LayerLogits, found: LayerLogits) -> LayerLogits:
    return LayerLogits(torch.maximum(known.highest, found.highest), torch.minimum(known.lowest, found.lowest))


def _parts(call: AttentionCall) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits [some examples, heads, queries, keys], and which of them count."""
    examples, heads, queries = call.query.shape[:3]
    keys = call.key.shape[2]
    step = max(1, _AT_ONCE // max(1, heads * queries * keys))
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=call.query.device)
    if call.causal:
        allowed = allowed.tril()
    for start in range(0, examples, step):
        rows = slice(start, start + step)
        query, key = (_exact(each[rows]) for each in (call.query, call.key))
        logits = call.scale * query @ key.transpose(-2, -1)
        seen = allowed.expand_as(logits)
        if call.mask is not None:
            mask = call.mask.expand(examples, heads, queries, keys)[rows]
            seen = seen & (mask if mask.dtype == torch.bool else mask > _HIDDEN)
        yield logits, seen


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@accumulator(version=1, taps={"attention": Tap.attention()})
def attention_statistics() -> AttentionStatisticsAccumulator:
    """Extremes of the attention logits by split, layer and head."""
    return AttentionStatisticsAccumulator()
