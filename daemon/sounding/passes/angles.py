"""The pass `angles`: how much the hidden states of a sequence's tokens point the same way, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sounding.batch import Batch
from sounding.contract import Unavailable, accumulator
from sounding.tap import Tap


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
        self.angles = LayerAngles()
        self._total: torch.Tensor | None = None
        self._own = 0.0  # Σ over sequences of the squared length of its sum
        self._tokens, self._pairs = 0, 0

    def take(self, states: torch.Tensor, counted: torch.Tensor) -> None:
        """States [positions, d] of one sequence."""
        own, first = states[self._prefix :][counted[self._prefix :]], states[: self._prefix][counted[: self._prefix]]
        units = _units(own)
        count, total = len(units), units.sum(0)
        length = float(total @ total)
        if count > 1:
            self.angles.intra.append((length - count) / (count * (count - 1)))
        opening = _units(first)
        if count and len(opening):
            self.angles.inter.append(float(total @ opening.sum(0)) / (count * len(opening)))
        self._total = total if self._total is None else self._total + total
        self._own += length
        self._tokens += count
        self._pairs += count * count

    def result(self) -> LayerAngles:
        """With what sequences have in common."""
        pairs = self._tokens**2 - self._pairs
        if self._total is not None and pairs:
            self.angles.across = (float(self._total @ self._total) - self._own) / pairs
        return self.angles


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
                for sequence, mask in zip(states, counted, strict=True):
                    sums.take(sequence, mask)

    def result(self) -> Angles:
        """Everything."""
        found = {name: {layer: sums.result() for layer, sums in layers.items()} for name, layers in self._sums.items()}
        if not any(found.values()):
            raise Unavailable("no layer puts out a vector for each position of a sequence")
        return Angles(found, self._missing)


def _units(states: torch.Tensor) -> torch.Tensor:
    """In unit length, float64 where the device has it; zeros have no direction, and are left out."""
    exact = states if states.device.type == "mps" else states.double()
    lengths: torch.Tensor = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
    return exact[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]


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
