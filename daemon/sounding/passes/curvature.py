"""The pass `curvature`: products with the mean loss's Hessian and its relatives, on a fixed subset of the probe."""

from collections.abc import Mapping
from functools import partial

import torch

from sounding.contract import Run, shared_pass
from sounding.curvature.conditions import loss_in_words
from sounding.curvature.curved import Curved, Facts
from sounding.curvature.engines import Matrix, Way
from sounding.curvature.matrices import Matrices, Settings
from sounding.curvature.objective import Statistics
from sounding.curvature.operator import Layout
from sounding.curvature.selection import Subset, batch_size_of, chosen_parameters, subset_of
from sounding.passes.model import Model
from sounding.passes.preconditioner import StoredOptimizer, coupled_decay, inverse_roots, preconditioner_in_words
from sounding.probe import TRAIN, Probe
from sounding.recipe import Recipe


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
        self._unit = probe.unit
        self._matrices = Matrices(model.module, model.recipe, probe, subset, parameters, settings)
        self.subset = subset
        self.layout = self._matrices.layout
        self.device, self.dtype = self._matrices.device, self._matrices.dtype
        self.training_batch = settings.batch_size  # by the settings or the run's attribute; 0 where it is not known

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
        summed, _ = self._matrices.of("hessian", batch_norm)
        assert summed.gradient is not None, "a Hessian's first pass takes the gradient"
        parts = self.layout.named(summed.gradient)
        names = self.layout.at(self._places(block)).names
        return torch.cat([parts[name].reshape(-1) for name in names])

    def loss(self, batch_norm: Statistics = "eval") -> float:
        """The mean loss itself."""
        return self._matrices.of("hessian", batch_norm)[0].loss

    def loss_at(self, offset: torch.Tensor, batch_norm: Statistics = "eval") -> float:
        """The mean loss where the selected parameters are moved by a flat vector; may be infinite or NaN."""
        summed, objective = self._matrices.of("hessian", batch_norm)
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
        """P^(-1/2)·A·P^(-1/2) with the diagonal P that Adam, both its bias corrections included, or RMSprop divides by.

        It has the eigenvalues of P⁻¹A, which the nominal learning rate (of the first group) goes with. Unavailable
        unless one of the two trains every parameter and its state is stored.
        """
        stored = self._optimizer.required()
        names = self._stored_names(operator.layout)
        roots = inverse_roots(stored, names)
        scale = torch.cat([roots[name].reshape(-1).to(self.device, self.dtype) for name in names])
        return operator.scaled(scale, preconditioner_in_words(stored, names))

    def _stored_names(self, layout: Layout) -> list[str]:
        return [self._model.stored.get(name, name) for name in layout.names]

    @property
    def recipe(self) -> Recipe:
        """Where the network, the data and the loss come from."""
        return self._model.recipe

    @property
    def room(self) -> int:
        """How many vectors of the whole length may be held beside the graphs, by whoever multiplies."""
        return self._matrices.room

    def _operator(self, matrix: Matrix, batch_norm: Statistics, block: str | None) -> Curved:
        summed, objective = self._matrices.of(matrix, batch_norm)
        places = self._places(block)
        layout = self.layout.at(places)
        facts = Facts(
            matrix,
            self.subset.split,
            len(objective.positions),
            self.subset.hash,
            objective.statistics if self._matrices.has_batch_norm else "none",
            len(summed.chunks[0]) if objective.statistics == "train" else 0,
            layout.size,
            block or "",
            loss_in_words(self.recipe, self._unit),
            summed.way,
            str(objective.dtype).removeprefix("torch."),
        )
        apply = partial(summed.multiply, places=places)
        return Curved(layout, facts, self.device, objective.dtype, apply)

    def _places(self, block: str | None) -> tuple[int, ...]:
        return tuple(range(len(self.layout.names))) if block is None else self.layout.matching(block)


@shared_pass(version=2)
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
