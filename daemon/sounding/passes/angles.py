"""The pass `angles`: how much the hidden states of a sequence's tokens point the same way, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple, Self

import torch

from sounding.batch import Batch
from sounding.contract import Unavailable, accumulator
from sounding.tap import Tap

_AT_ONCE = 1 << 18  # numbers that are made float64 together


@dataclass
class LayerAngles:
    """Of one layer and split, one value a sequence: mean cosines between its tokens.

    `intra` is between different tokens after the prefix, `inter` between these and the prefix's. `across` is the mean
    cosine between tokens of different sequences, None for a single one.
    """

    intra: list[float] = field(default_factory=list)
    inter: list[float] = field(default_factory=list)
    across: float | None = None


@dataclass(frozen=True)
class Angles:
    """By split and layer; `missing` says why of layers that could not be tapped or have no positions."""

    splits: Mapping[str, Mapping[str, LayerAngles]]
    missing: Mapping[str, str]


class _Sums:
    """Sums of unit vectors over sequences: a cosine's mean is a sum's squared length."""

    def __init__(self, prefix: int) -> None:
        self._prefix = prefix
        self._intra: list[tuple[int, float]] = []  # with each sequence's place in its split
        self._inter: list[tuple[int, float]] = []
        self._total: torch.Tensor | None = None
        self._own = 0.0  # Σ over sequences of the squared length of its sum
        self._tokens, self._pairs = 0, 0

    def take(self, states: torch.Tensor, counted: torch.Tensor, start: int = 0) -> None:
        """States [sequences, positions, d], which of the positions [sequences, positions] count; the first's place."""
        step = max(1, _AT_ONCE // max(1, states[0].numel()))
        for some, mask in zip(torch.split(states, step), torch.split(counted, step), strict=True):
            self._take(some, mask, start)
            start += len(some)

    def merge(self, other: "_Sums") -> None:
        self._intra += other._intra
        self._inter += other._inter
        self._own += other._own
        self._tokens += other._tokens
        self._pairs += other._pairs
        if other._total is not None:
            self._total = other._total if self._total is None else self._total + other._total

    def _take(self, states: torch.Tensor, counted: torch.Tensor, start: int) -> None:
        units = _units(states, counted)
        opening, own = units.sums(slice(self._prefix)), units.sums(slice(self._prefix, None))
        lengths, products = (torch.linalg.vecdot(own, each).tolist() for each in (own, opening))
        firsts, counts = (
            units.kept[:, part].sum(1).tolist() for part in (slice(self._prefix), slice(self._prefix, None))
        )
        for place, (length, product, first, count) in enumerate(
            zip(lengths, products, firsts, counts, strict=True), start
        ):
            if count > 1:
                self._intra.append((place, (length - count) / (count * (count - 1))))
            if count and first:
                self._inter.append((place, product / (count * first)))
            self._own += length
            self._tokens += count
            self._pairs += count * count
        total = own.sum(0)
        self._total = total if self._total is None else self._total + total

    def result(self) -> LayerAngles:
        """With what sequences have in common."""
        pairs = self._tokens**2 - self._pairs
        across = None
        if self._total is not None and pairs:
            across = (float(self._total @ self._total) - self._own) / pairs
        return LayerAngles(_in_order(self._intra), _in_order(self._inter), across)


class AnglesAccumulator:
    """Keeps two numbers for each sequence and layer, and a vector for each layer."""

    def __init__(self, prefix: int) -> None:
        self._prefix = prefix
        self._sums: dict[str, dict[str, _Sums]] = {}
        self._missing: dict[str, str] = {}

    def update(self, batch: Batch) -> None:
        """Take in one batch."""
        split = self._sums.setdefault(batch.split, {})
        for tapped in batch.taps.values():
            self._missing.update(tapped.missing)
            for name, states in tapped.items():
                if states.ndim != 3:
                    self._missing[name] = f"it puts out {list(states.shape)}: no vector for each position"
                    continue
                counted = _counted(batch, states)
                sums = split.setdefault(name, _Sums(self._prefix))
                sums.take(states, counted, batch.start)

    def merge(self, other: Self) -> None:
        """Take in another one's sequences, and add its sums."""
        self._missing.update(other._missing)
        for name, layers in other._sums.items():
            split = self._sums.setdefault(name, {})
            for layer, sums in layers.items():
                split.setdefault(layer, _Sums(self._prefix)).merge(sums)

    def result(self) -> Angles:
        """Everything."""
        found = {name: {layer: sums.result() for layer, sums in layers.items()} for name, layers in self._sums.items()}
        if not any(found.values()):
            raise Unavailable("no layer puts out a vector for each position of a sequence")
        return Angles(found, self._missing)


class _Units(NamedTuple):
    """States [sequences, positions, d], and what makes each a unit vector; those that are not kept are zero."""

    states: torch.Tensor
    scales: torch.Tensor
    kept: torch.Tensor

    def sums(self, part: slice) -> torch.Tensor:
        """The sum of the unit vectors of some positions, by sequence."""
        return torch.einsum("np,npd->nd", self.scales[:, part], self.states[:, part])


def _in_order(values: list[tuple[int, float]]) -> list[float]:
    return [value for _, value in sorted(values, key=itemgetter(0))]


def _units(states: torch.Tensor, counted: torch.Tensor) -> _Units:
    """Float64 where the device has it; zeros have no direction, and are left out."""
    exact = states if states.device.type == "mps" else states.double()
    lengths: torch.Tensor = torch.linalg.vector_norm(exact, dim=-1)
    kept = counted & (lengths > 0)
    if not bool((kept | lengths.isfinite()).all()):  # as attention with nothing to look at is: NaN times zero is NaN
        exact = exact.masked_fill(~kept[..., None], 0.0)
    return _Units(exact, torch.where(kept, lengths.reciprocal(), 0.0), kept)


def _counted(batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """[n, positions]: the inputs' attention mask where there is one, else every position."""
    mask = batch.inputs.get("attention_mask") if isinstance(batch.inputs, Mapping) else None
    if isinstance(mask, torch.Tensor) and mask.shape == states.shape[:2]:
        return mask.bool()
    return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)


@accumulator(version=1, taps={"blocks": Tap.blocks("none", required=False), "head": Tap.head(required=False)})
def angles(*, prefix: int = 0) -> AnglesAccumulator:
    """Of every top-level block, and of what enters the head; `prefix` tokens at the start are apart from the others."""
    return AnglesAccumulator(prefix)
