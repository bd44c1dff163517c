"""A few examples of the probe, drawn once and for all by a seed: for what is too dear to be measured on every one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sounding.batch import moved
from sounding.contract import Run
from sounding.probe import rows_of
from sounding.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Sample:
    """Examples of one split on the model's device; `positions` and `ids` say which ones, in ascending order."""

    split: str
    positions: tuple[int, ...]
    ids: tuple[Any, ...]
    inputs: Any
    targets: Any

    def __len__(self) -> int:
        return len(self.positions)

    def rows(self, start: int, stop: int) -> Any:
        """Inputs of some of the examples, counted within the sample."""
        return rows_of(self.inputs, slice(start, stop))


def sample_of(recipe: Recipe, run: Run, device: torch.device, split: str, examples: int, seed: int = 0) -> Sample:
    """At most `examples` of a split, the same ones for every checkpoint of every run with that probe and `seed`."""
    probe = recipe.probe(run)
    whole = probe.splits[split]
    positions = chosen(whole.size, examples, seed)
    inputs, targets = (moved(each, device) for each in whole.take(positions))
    ids = probe.ids_of(split)
    return Sample(split, tuple(positions), tuple(ids[place] for place in positions), inputs, targets)


def chosen(size: int, examples: int, seed: int = 0) -> Sequence[int]:
    """Positions of at most `examples` out of `size`, ascending; the same ones whenever the three are the same."""
    if examples >= size:
        return range(size)
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(size, generator=generator)[:examples].tolist())
