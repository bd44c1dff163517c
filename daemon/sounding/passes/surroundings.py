"""The pass `surroundings`: the mean loss over a fixed subset of the train split, at any offset from the weights."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from sounding.contract import Run, Unavailable, shared_pass
from sounding.curvature.batches import Batches, require_fit
from sounding.curvature.conditions import BATCH_NORM, conditions, loss_in_words
from sounding.curvature.engines import WAYS
from sounding.curvature.examination import Examined, examined_exactly
from sounding.curvature.memory import Memory, chunk_on
from sounding.curvature.objective import Evaluated, Objective, Statistics, batch_norms
from sounding.curvature.selection import batch_size_of, chosen_parameters, subset_of
from sounding.curvature.settling import FEW, settled
from sounding.curvature.surroundings import Surroundings
from sounding.passes.model import Model
from sounding.probe import TRAIN, Probe
from sounding.recipe import Recipe

_NAME = "passes.surroundings"


class Around:
    """Makes `Surroundings` in evaluation mode, of logits as they are or normalised, and `Batches` as training has them.

    `batch_size` is that of training, 0 where neither the settings nor the run's attributes tell; `examples` is how
    many there are in the subset, and `subset` its digest.
    """

    def __init__(
        self,
        model: Model,
        probe: Probe,
        examples: int,
        parameters: Mapping[str, torch.Tensor],
        batch_size: int,
        chunk: int,
        memory_gb: float,
    ) -> None:
        chosen = subset_of(probe, TRAIN, examples)
        self._model, self._probe, self._parameters = model, probe, parameters
        self._positions = chosen.positions
        self.subset, self.examples = chosen.hash, len(chosen.positions)
        self.batch_size = batch_size
        self._chunk, self._budget = max(1, chunk), memory_gb * (1 << 30)
        self.has_batch_norm = bool(batch_norms(model.module))

    def evaluated(self, *, normalised: bool = False) -> Surroundings:
        """The loss of the function that is evaluated; `normalised` divides centred logits by their norm first.

        Raises Unavailable for a network that gives other losses when it is asked again.
        """
        self._require_finite()
        recipe = _normalising(self._model.recipe) if normalised else self._model.recipe
        chunks = [range(at, min(at + self._chunk, self.examples)) for at in range(0, self.examples, self._chunk)]
        objective = self._objective(recipe, "eval")
        with objective.prepared():
            settled(partial(objective.evaluate, range(min(FEW, self.examples))), Evaluated.counting)
        return Surroundings(objective, chunks)

    def in_batches(self, size: int) -> Batches:
        """Groups of `size` examples, BatchNorm normalising by each; a rest is left out.

        Raises Unavailable when there are fewer examples than that, where the loss has no second derivatives, and where
        these do not fit into memory.
        """
        self._require_finite()
        if size > self.examples:
            raise Unavailable(f"a batch has {size} examples, and the subset of the probe {self.examples}")
        objective, examined, memory = self._examined
        return Batches(objective, size, self._chunk, examined, memory, _NAME)

    @cached_property
    def _examined(self) -> tuple[Objective, Examined, Memory]:
        """The loss that batches have, and how its second derivatives are had."""
        statistics: Statistics = "train" if self.has_batch_norm else "eval"
        objective = partial(self._objective, self._model.recipe, statistics)
        memory = _memory_of(objective(torch.float32), self._budget)
        require_fit(memory, 0.0, "a product", _NAME)
        return examined_exactly("hessian", objective, WAYS["auto"], memory)

    def conditions(self, *more: str) -> str:
        """What numbers of `evaluated` rest on; `more` are further words, as of logits and draws."""
        mode = BATCH_NORM["eval" if self.has_batch_norm else "none"]
        return self._conditions(mode, self._objective(self._model.recipe, "eval"), *more)

    def batch_conditions(self, size: int, batches: int) -> str:
        """What numbers of at most so many batches `in_batches(size)` rest on."""
        mode = f"{BATCH_NORM['train']} of {size}" if self.has_batch_norm else BATCH_NORM["none"]
        return self._conditions(mode, self._examined[0], f"batches: {min(batches, self.examples // size)} of {size}")

    def _conditions(self, mode: str, objective: Objective, *more: str) -> str:
        loss, dtype = loss_in_words(self._model.recipe, self._probe.unit), str(objective.dtype).removeprefix("torch.")
        size = f"{objective.layout.size} parameters"
        return conditions(loss, self.examples, TRAIN, self.subset, mode, size, dtype, *more)

    def _objective(self, recipe: Recipe, statistics: Statistics, least: torch.dtype = torch.float32) -> Objective:
        split = self._probe.splits[TRAIN]
        return Objective(
            self._model.module, recipe, split, self._probe.unit, self._positions, self._parameters, statistics, least
        )

    def _require_finite(self) -> None:
        for name, each in self._parameters.items():
            if not math.isfinite(float(each.detach().abs().max() if each.numel() else 0.0)):
                raise Unavailable(f"`{name}` holds NaN or infinity: there is no loss to speak of around it")


@shared_pass(version=2)
def surroundings(
    model: Model,
    recipe: Recipe,
    run: Run,
    *,
    examples: int = 1024,
    parameters: str = "trainable",
    batch_size: int = 0,
    chunk: int = 256,
    memory_gb: float = 4.0,
) -> Around:
    """On at most `examples` of the train split; `parameters` are "trainable", "all", or a pattern of names.

    `batch_size` is that of training (0: the run's attribute tells). `chunk` examples go through the network at once:
    fewer take less memory. `memory_gb` is what graphs and vectors of a batch's second derivatives may take.
    """
    chosen = chosen_parameters(model.module, parameters)
    size = batch_size_of(run.attributes, batch_size)[0]
    return Around(model, recipe.probe(run), examples, chosen, size, chunk, memory_gb)


def _memory_of(objective: Objective, budget: float) -> Memory:
    vector = max(1, objective.layout.size) * objective.dtype.itemsize
    return Memory(budget, vector, chunk_on(objective.device))


def _normalising(recipe: Recipe) -> Recipe:
    def forward(module: nn.Module, inputs: Any) -> torch.Tensor:
        return normalised_logits(recipe.forward(module, inputs))

    return replace(recipe, functions={**recipe.functions, "forward": forward})


def normalised_logits(outputs: Any) -> torch.Tensor:
    """Logits less their mean, divided by their norm. Raises Unavailable for outputs that are no logits."""
    if not isinstance(outputs, torch.Tensor) or outputs.ndim < 2:
        raise Unavailable("the outputs are no tensor of logits, so they cannot be normalised")
    centred = outputs - outputs.mean(-1, keepdim=True)
    norms: torch.Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    return centred / norms.clamp_min(1e-10)
