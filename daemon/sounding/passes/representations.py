"""The pass `representations`: what layers make of a fixed sample of the probe, to be compared by example."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch

from sounding.batch import Batch
from sounding.contract import Run, Unavailable, accumulator
from sounding.keyed import Keyed
from sounding.passes.sample import chosen
from sounding.probe import Probe
from sounding.recipe import Recipe
from sounding.tap import Reduce, Tap

HEAD, BLOCKS = "head", "blocks"  # what `layers` may name besides patterns of modules


class Representations(Keyed[str, torch.Tensor]):
    """Activations [n, d] by layer, float32 on the CPU, layers in the order in which they were asked for.

    The head's input stands under the key "head". Row i is example `ids[i]` of the probe's `split`. `missing` says of
    layers why they are not here.
    """

    def __init__(
        self, layers: Mapping[str, torch.Tensor], split: str, ids: Sequence[Any], missing: Mapping[str, str]
    ) -> None:
        super().__init__(layers)
        self.split = split
        self.ids = tuple(ids)
        self.missing = missing

    def shared_with(self, other: "Representations") -> tuple[torch.Tensor, torch.Tensor]:
        """Rows here and rows there of the examples that both have, in the order of this one's.

        Empty where the probes share no id, or the splits differ.
        """
        there = {each: row for row, each in enumerate(other.ids)} if other.split == self.split else {}
        pairs = [(row, there[each]) for row, each in enumerate(self.ids) if each in there]
        here, across = zip(*pairs, strict=True) if pairs else ((), ())
        return torch.tensor(here, dtype=torch.int64), torch.tensor(across, dtype=torch.int64)


class RepresentationsAccumulator:
    """Keeps the rows of the chosen examples: at most examples · Σd values, whatever the probe's size."""

    def __init__(self, probe: Probe, split: str, examples: int) -> None:
        names = list(probe.splits)
        self._split = split or names[-1]
        if self._split not in names:
            raise Unavailable(f"the probe has no split `{self._split}`; there are: {', '.join(names)}")
        self._probe = probe
        self._positions = torch.tensor(chosen(probe.splits[self._split].size, examples))
        self._layers: dict[str, torch.Tensor] = {}
        self._filled: dict[str, torch.Tensor] = {}  # which of a layer's rows are there
        self._missing: dict[str, str] = {}

    def update(self, batch: Batch) -> None:
        """Take in the chosen ones of a batch."""
        first, last = torch.searchsorted(
            self._positions, torch.tensor([batch.start, batch.start + batch.size])
        ).tolist()
        if batch.split != self._split or first == last:
            return
        inside = self._positions[first:last] - batch.start
        for wish, tapped in batch.taps.items():
            self._missing.update(tapped.missing)
            for name, tensor in tapped.items():
                self._keep(HEAD if wish == HEAD else name, tensor, inside, first)

    def merge(self, other: Self) -> None:
        """Take in the rows that another one has filled."""
        self._missing.update(other._missing)
        for name, rows in other._layers.items():
            if name in self._layers:
                filled = other._filled[name]
                self._layers[name][filled] = rows[filled]
                self._filled[name] |= filled
            else:
                self._layers[name], self._filled[name] = rows, other._filled[name]

    def result(self) -> Representations:
        """The layers that were seen of every chosen example."""
        for name, filled in self._filled.items():
            if not filled.all():
                self._missing.setdefault(name, "it runs for some examples only")
        whole = {name: each for name, each in self._layers.items() if name not in self._missing}
        if not whole:
            name, reason = next(iter(self._missing.items()), ("layers", "none are asked for"))
            raise Unavailable(f"no layer's activations can be had: {name}: {reason}")
        ids = self._probe.ids_of(self._split)
        return Representations(whole, self._split, [ids[place] for place in self._positions.tolist()], self._missing)

    def _keep(self, name: str, tensor: torch.Tensor, inside: torch.Tensor, first: int) -> None:
        if tensor.ndim != 2:
            self._missing[name] = f"it is of shape {tuple(tensor.shape)}, and no vector per example: set `reduce`"
            return
        if name not in self._layers:
            self._filled[name] = torch.zeros(len(self._positions), dtype=torch.bool)
            self._layers[name] = torch.full((len(self._positions), tensor.shape[1]), torch.nan)
        rows = slice(first, first + len(inside))
        self._layers[name][rows] = tensor[inside.to(tensor.device)].float().cpu()
        self._filled[name][rows] = True


def _taps(*, layers: tuple[str, ...], reduce: Reduce, split: str, examples: int) -> Mapping[str, Tap]:
    known = {HEAD: Tap.head(reduce, required=False), BLOCKS: Tap.blocks(reduce, required=False)}
    return {layer: known.get(layer) or Tap.module(layer, reduce, required=False) for layer in layers}


@accumulator(version=1, taps=_taps)
def representations(
    recipe: Recipe,
    run: Run,
    *,
    layers: tuple[str, ...] = (BLOCKS, HEAD),
    reduce: Reduce = "vector",
    split: str = "",
    examples: int = 2048,
) -> RepresentationsAccumulator:
    """Activations of a fixed sample of one split (by default the last: held-out where there is one).

    `layers` are "blocks" (the top-level ones), "head" (its input), or patterns of modules' names.
    """
    return RepresentationsAccumulator(recipe.probe(run), split, examples)
