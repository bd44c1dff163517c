"""The pass `token_ranks`: the effective rank of hidden states along the tokens of a sequence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from sounding.batch import Batch
from sounding.contract import accumulator
from sounding.geometry.ranks import prefix_ranks
from sounding.tap import Tap


@dataclass(frozen=True)
class TokenRanks:
    """By split: one tensor [k] a sequence, the effective rank of its first stride, 2·stride, … tokens."""

    stride: int
    splits: Mapping[str, tuple[torch.Tensor, ...]]  # empty without a head, or where its input has no positions


class TokenRanksAccumulator:
    """Keeps a few numbers for each of the first sequences of every split."""

    def __init__(self, sequences: int, stride: int) -> None:
        self._sequences = sequences
        self._stride = stride
        self._found: dict[str, dict[int, torch.Tensor]] = {}  # by split and the sequence's place in it

    def update(self, batch: Batch) -> None:
        """Take in one batch."""
        states = next(iter(batch.taps["features"].values()), None)
        if states is None or states.ndim != 3:
            return
        found = self._found.setdefault(batch.split, {})
        counted = batch.weights != 0 if batch.weights.shape == states.shape[:2] else None
        for row, sequence in enumerate(states[: max(0, self._sequences - batch.start)]):
            kept = sequence if counted is None else sequence[: _length(counted[row])]
            kept = kept.cpu() if kept.device.type == "mps" else kept  # which has no float64
            found[batch.start + row] = prefix_ranks(kept[None], self._stride)[1][0].cpu()

    def merge(self, other: Self) -> None:
        """Take in another one's sequences."""
        for split, found in other._found.items():
            self._found.setdefault(split, {}).update(found)

    def result(self) -> TokenRanks:
        """Everything, by split."""
        return TokenRanks(
            self._stride, {name: tuple(found[place] for place in sorted(found)) for name, found in self._found.items()}
        )


def _length(counted: torch.Tensor) -> int:
    """Tokens up to the last one that counts."""
    places = torch.nonzero(counted).flatten()
    return int(places[-1]) + 1 if len(places) else 0


@accumulator(version=1, taps={"features": Tap.head(required=False)})
def token_ranks(*, sequences: int = 8, stride: int = 32) -> TokenRanksAccumulator:
    """Effective ranks of the first tokens, of the first `sequences` sequences of every split, every `stride` tokens."""
    return TokenRanksAccumulator(sequences, stride)
