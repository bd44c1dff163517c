"""The matrices of one mean loss, each prepared when it is first asked for: examined, chunked, its graphs built."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from sounding.contract import Unavailable
from sounding.curvature.engines import WAYS, Matrix, Shelf, Sum, Way
from sounding.curvature.examination import Examined, examined_exactly
from sounding.curvature.memory import Memory, chunk_on, chunks_of, require_room
from sounding.curvature.objective import Objective, Statistics, batch_norms
from sounding.curvature.selection import Subset
from sounding.probe import Probe
from sounding.recipe import Recipe


class Settings(NamedTuple):
    """How training normalises and what may be taken; `batch_size` is 0 where it is not known."""

    batch_size: int
    memory_gb: float
    engine: Way


class Matrices:
    """Matrices of the mean loss over a subset, as a function of `parameters`, within one budget of memory."""

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe,
        probe: Probe,
        subset: Subset,
        parameters: Mapping[str, torch.Tensor],
        settings: Settings,
    ) -> None:
        self._module, self._recipe, self._probe, self._subset = module, recipe, probe, subset
        self._parameters = parameters
        self._settings = settings
        self.has_batch_norm = bool(batch_norms(module))
        objective = self._objective("eval", len(subset.positions))
        self.layout, self.device, self.dtype = objective.layout, objective.device, objective.dtype
        vector = max(1, self.layout.size) * objective.dtype.itemsize
        self._memory = Memory(settings.memory_gb * (1 << 30), vector, chunk_on(self.device))
        self._shelf = Shelf(self._memory.graphs)
        self._sums: dict[tuple[Matrix, Statistics], tuple[Sum, Objective]] = {}

    def of(self, matrix: Matrix, batch_norm: Statistics) -> tuple[Sum, Objective]:
        """A matrix and what it is the curvature of; a second time it costs nothing.

        Raises Unavailable, with the reason, where the loss has no such curvature or there is too little memory for it.
        """
        statistics: Statistics = batch_norm if self.has_batch_norm else "eval"
        if (matrix, statistics) not in self._sums:
            self._sums[matrix, statistics] = self._prepared(matrix, statistics)
        return self._sums[matrix, statistics]

    @property
    def room(self) -> int:
        """How many vectors of the whole length may be held beside the graphs, by whoever multiplies."""
        size = max((objective.dtype.itemsize for _, objective in self._sums.values()), default=self.dtype.itemsize)
        peak = max((summed.peak for summed, _ in self._sums.values()), default=0.0)
        return replace(self._memory, vector=size * max(1, self.layout.size)).vectors_beside(peak)

    def _prepared(self, matrix: Matrix, statistics: Statistics) -> tuple[Sum, Objective]:
        examples, batch = len(self._subset.positions), 0
        if statistics == "train":
            batch = self._batch_within(examples)
            examples = batch * (examples // batch)
        self._require_finite()
        require_room(self._memory)
        objective, found, memory = self._examined(matrix, statistics, examples)
        chunks = chunks_of(examples, batch, found.need, memory)
        summed = Sum(matrix, found.engine, objective, chunks, found.need, self._shelf)
        if not math.isfinite(summed.loss):
            raise Unavailable(f"the mean loss is {summed.loss} at this checkpoint, so it has no curvature")
        return summed, objective

    def _batch_within(self, examples: int) -> int:
        """The size of training's batches. Raises Unavailable where it is not known, or beyond the examples."""
        batch = self._settings.batch_size
        if not batch:
            raise Unavailable(
                "BatchNorm normalises by the training batch, whose size is not known: give the run an attribute "
                "`batch_size`, or set batch_size in [passes.curvature]"
            )
        if batch > examples:
            raise Unavailable(
                f"a batch has {batch} examples, and the subset of the probe {examples}: BatchNorm would normalise by "
                "fewer than in training; give the probe more, or raise examples in [passes.curvature]"
            )
        return batch

    def _examined(self, matrix: Matrix, statistics: Statistics, examples: int) -> tuple[Objective, Examined, Memory]:
        objective = partial(self._objective, statistics, examples)
        return examined_exactly(matrix, objective, WAYS[self._settings.engine], self._memory)

    def _objective(self, statistics: Statistics, examples: int, least: torch.dtype = torch.float32) -> Objective:
        split, positions = self._probe.splits[self._subset.split], self._subset.positions[:examples]
        return Objective(
            self._module, self._recipe, split, self._probe.unit, positions, self._parameters, statistics, least
        )

    def _require_finite(self) -> None:
        wrong = [name for name, each in self._parameters.items() if not bool(torch.isfinite(each).all())]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise Unavailable(f"`{wrong[0]}`{more} holds NaN or infinity, so the loss has no curvature here")
