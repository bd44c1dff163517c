"""The pass `curvature`: products with the mean loss's Hessian and its relatives, on a fixed subset of the probe."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from sounding.contract import Run, Unavailable, shared_pass
from sounding.curvature.curved import Curved, Facts
from sounding.curvature.engines import WAYS, Matrix, Shelf, Sum, Way
from sounding.curvature.examination import Asymmetric, Examined, examine
from sounding.curvature.memory import Memory, chunk_on, chunks_of, require_room
from sounding.curvature.objective import Objective, Statistics, batch_norms
from sounding.curvature.operator import Layout
from sounding.curvature.selection import Subset, batch_size_of, chosen_parameters, subset_of
from sounding.passes.model import Model
from sounding.passes.preconditioner import StoredOptimizer, coupled_decay, inverse_roots
from sounding.probe import TRAIN, Probe
from sounding.recipe import Recipe


class Settings(NamedTuple):
    """The pass's settings; `batch_size` is 0 where it is not known."""

    batch_size: int
    memory_gb: float
    engine: Way


class Curvature:
    """Curvature of the mean loss over a fixed subset of the train split, as a function of the selected parameters.

    Operators share graphs within `memory_gb`: to ask for the same one again costs nothing. Where there is no such
    curvature, methods raise Unavailable with the reason, which a plugin may yield as a `Skip`. `batch_norm` is "eval"
    for the function that is evaluated, by running statistics, or "train" for the one that training sees, in batches of
    its size. Of a `block`, a regular expression, only parameters whose names it is found in vary.
    """

    def __init__(
        self,
        model: Model,
        probe: Probe,
        subset: Subset,
        parameters: Mapping[str, torch.Tensor],
        settings: Settings,
        stored: StoredOptimizer,
    ) -> None:
        self._optimizer = stored
        self._model = model
        self._probe = probe
        self._settings = settings
        self._parameters = parameters
        self.subset = subset
        self.layout = Layout(tuple(parameters), tuple(tuple(each.shape) for each in parameters.values()))
        objective = self._objective("eval", len(subset.positions))
        self.device, self.dtype = objective.device, objective.dtype
        vector = max(1, self.layout.size) * objective.dtype.itemsize
        self._memory = Memory(settings.memory_gb * (1 << 30), vector, chunk_on(self.device))
        self._shelf = Shelf(self._memory.graphs)
        self._sums: dict[tuple[Matrix, Statistics], tuple[Sum, Objective]] = {}

    def hessian(self, batch_norm: Statistics = "eval", block: str | None = None) -> Curved:
        """H, the second derivatives of the mean loss."""
        return self._operator("hessian", batch_norm, block)

    def ggn(self, batch_norm: Statistics = "eval", block: str | None = None) -> Curved:
        """G = 1/W Σ w JᵀBJ, with J the outputs' Jacobian and B the loss's Hessian at the outputs.

        It is H less what the network's own second derivatives add.
        """
        return self._operator("ggn", batch_norm, block)

    def fisher(self, batch_norm: Statistics = "eval", block: str | None = None) -> Curved:
        """F = 1/W Σ w ggᵀ, the empirical Fisher matrix, with g the gradient of one example's (or token's) loss."""
        return self._operator("fisher", batch_norm, block)

    def gradient(self, batch_norm: Statistics = "eval", block: str | None = None) -> torch.Tensor:
        """The mean loss's gradient as a new flat vector, from the graphs that Hessian products use."""
        summed, _ = self._sum("hessian", batch_norm)
        assert summed.gradient is not None, "a Hessian's first pass takes the gradient"
        parts = self.layout.named(summed.gradient)
        names = self.layout.at(self._places(block)).names
        return torch.cat([parts[name].reshape(-1) for name in names])

    def loss(self, batch_norm: Statistics = "eval") -> float:
        """The mean loss itself."""
        return self._sum("hessian", batch_norm)[0].loss

    def loss_at(self, offset: torch.Tensor, batch_norm: Statistics = "eval") -> float:
        """The mean loss where the selected parameters are moved by a flat vector; may be infinite or NaN."""
        summed, objective = self._sum("hessian", batch_norm)
        leaves = [
            each.detach() + part.to(each.dtype)
            for each, part in zip(objective.leaves, self.layout.views(offset), strict=True)
        ]
        return objective.mean_at(leaves, summed.chunks)

    def decayed(self, operator: Curved) -> Curved:
        """The matrix plus Λ, the weight decay that acts through the gradient, as the stored optimizer has it.

        That of the loss which is minimised; decoupled weight decay is none of it. Unavailable where it is not known.
        """
        names = self._stored_names(operator.layout)
        decay = coupled_decay(self._optimizer.required(), names)
        sizes = torch.tensor(operator.layout.sizes, device=self.device)
        rates = torch.tensor([decay[name] for name in names], dtype=self.dtype, device=self.device)
        diagonal = rates.repeat_interleave(sizes)
        values = ", ".join(f"{each:g}" for each in sorted(set(decay.values())))
        return operator.plus(diagonal, f"coupled, {values}")

    def preconditioned(self, operator: Curved) -> Curved:
        """P^(-1/2)·A·P^(-1/2) with the diagonal P that Adam divides by, both bias corrections in it.

        It has the eigenvalues of P⁻¹A, which the nominal learning rate (of the first group) goes with. Unavailable
        unless Adam trains every parameter and its state is stored.
        """
        stored = self._optimizer.required()
        names = self._stored_names(operator.layout)
        roots = inverse_roots(stored, names)
        scale = torch.cat([roots[name].reshape(-1).to(self.device, self.dtype) for name in names])
        return operator.scaled(scale, f"{stored.name}, step and bias corrections included")

    def _stored_names(self, layout: Layout) -> list[str]:
        return [self._model.stored.get(name, name) for name in layout.names]

    @property
    def recipe(self) -> Recipe:
        """Where the network, the data and the loss come from."""
        return self._model.recipe

    @property
    def training_batch(self) -> int:
        """Size of a training batch, by the settings or the run's attribute; 0 where it is not known."""
        return self._settings.batch_size

    @property
    def room(self) -> int:
        """How many vectors of the whole length may be held beside the graphs, by whoever multiplies."""
        size = max((objective.dtype.itemsize for _, objective in self._sums.values()), default=self.dtype.itemsize)
        peak = max((summed.peak for summed, _ in self._sums.values()), default=0.0)
        return replace(self._memory, vector=size * max(1, self.layout.size)).vectors_beside(peak)

    def _operator(self, matrix: Matrix, batch_norm: Statistics, block: str | None) -> Curved:
        summed, objective = self._sum(matrix, batch_norm)
        places = self._places(block)
        layout = self.layout.at(places)
        facts = Facts(
            matrix,
            self.subset.split,
            len(objective.positions),
            self.subset.hash,
            objective.statistics if batch_norms(self._model.module) else "none",
            len(summed.chunks[0]) if objective.statistics == "train" else 0,
            layout.size,
            block or "",
            self._loss_in_words(),
            summed.way,
            str(objective.dtype).removeprefix("torch."),
        )
        apply = partial(summed.multiply, places=places)
        return Curved(layout, facts, self.device, objective.dtype, apply)

    def _places(self, block: str | None) -> tuple[int, ...]:
        return tuple(range(len(self.layout.names))) if block is None else self.layout.matching(block)

    def _sum(self, matrix: Matrix, batch_norm: Statistics) -> tuple[Sum, Objective]:
        statistics: Statistics = batch_norm if batch_norms(self._model.module) else "eval"
        if (matrix, statistics) not in self._sums:
            self._sums[matrix, statistics] = self._prepared(matrix, statistics)
        return self._sums[matrix, statistics]

    def _prepared(self, matrix: Matrix, statistics: Statistics) -> tuple[Sum, Objective]:
        examples, batch = len(self.subset.positions), 0
        if statistics == "train":
            batch = self._settings.batch_size
            if not batch:
                raise Unavailable(
                    "BatchNorm normalises by the training batch, whose size is not known: give the run an attribute "
                    "`batch_size`, or set batch_size in [passes.curvature]"
                )
            examples = max(batch * (examples // batch), min(batch, examples))
        self._require_finite()
        require_room(self._memory)
        objective, found, memory = self._examined(matrix, statistics, examples)
        chunks = chunks_of(examples, batch, found.need, memory)
        summed = Sum(matrix, found.engine, objective, chunks, found.need, self._shelf)
        if not math.isfinite(summed.loss):
            raise Unavailable(f"the mean loss is {summed.loss} at this checkpoint, so it has no curvature")
        return summed, objective

    def _examined(self, matrix: Matrix, statistics: Statistics, examples: int) -> tuple[Objective, Examined, Memory]:
        """In float64 where in float32 nothing is left but rounding, as where a network has learnt all there is."""
        objective, engines = self._objective(statistics, examples), WAYS[self._settings.engine]
        try:
            return objective, examine(matrix, objective, engines, self._memory), self._memory
        except Asymmetric as error:
            if self.dtype == torch.float64 or self.device.type == "mps":
                raise
            exact = self._objective(statistics, examples, torch.float64)
            memory = replace(self._memory, vector=2 * self._memory.vector)
            try:
                return exact, examine(matrix, exact, engines, memory), memory
            except RuntimeError:  # the network itself is written for float32
                raise error from None

    def _objective(self, statistics: Statistics, examples: int, least: torch.dtype = torch.float32) -> Objective:
        model, split, positions = self._model, self._probe.splits[self.subset.split], self.subset.positions[:examples]
        return Objective(
            model.module, model.recipe, split, self._probe.unit, positions, self._parameters, statistics, least
        )

    def _require_finite(self) -> None:
        wrong = [name for name, each in self._parameters.items() if not bool(torch.isfinite(each).all())]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise Unavailable(f"`{wrong[0]}`{more} holds NaN or infinity, so the loss has no curvature here")

    def _loss_in_words(self) -> str:
        whose = "the recipe's loss" if "loss" in self._model.recipe.functions else "cross-entropy"
        return f"{whose}, weighted mean over {self._probe.unit}s"


@shared_pass(version=1)
def curvature(
    model: Model,
    recipe: Recipe,
    run: Run,
    stored_optimizer: StoredOptimizer,
    *,
    examples: int = 4096,
    parameters: str = "trainable",
    batch_size: int = 0,
    memory_gb: float = 4.0,
    engine: Way = "auto",
) -> Curvature:
    """On at most `examples` of the train split; `parameters` are "trainable", "all", or a pattern of names.

    `memory_gb` is what graphs and vectors may take beyond the network itself. `batch_size` is that of training (0:
    the run's attribute tells).
    """
    probe = recipe.probe(run)
    subset = subset_of(probe, TRAIN, examples)
    chosen = chosen_parameters(model.module, parameters)
    settings = Settings(batch_size_of(run.attributes, batch_size)[0], memory_gb, engine)
    return Curvature(model, probe, subset, chosen, settings, stored_optimizer)
