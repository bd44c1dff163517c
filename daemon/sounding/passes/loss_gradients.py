"""The pass `loss_gradients`: products of the gradients of single examples' losses, by parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from sounding.contract import Run, Unavailable, shared_pass
from sounding.kernels import Floats
from sounding.passes.directions import Directions
from sounding.passes.example_gradients import example_gradients
from sounding.passes.linear_pairs import layer_pairs
from sounding.passes.model import Model
from sounding.passes.sample import Sample, sample_of
from sounding.passes.tangent_kernel import product
from sounding.probe import TRAIN
from sounding.recipe import Recipe

_FEWEST = 8  # examples
_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class LossGradients:
    """Of the gradients g_i of the losses of n examples of the train split, by parameter.

    `products` are ⟨g_i, g_j⟩, [n, n]; `signs` are Σ_k ∣Σ_i sign g_ik∣ over the elements k; `sizes` counts these.
    `by_pairs` names the parameters whose gradients were never formed: linear layers that each example uses once.
    """

    products: Mapping[str, Floats]
    signs: Mapping[str, float]
    sizes: Mapping[str, int]
    by_pairs: tuple[str, ...]
    examples: int

    @cached_property
    def total(self) -> Floats:
        """Products of whole gradients."""
        return np.asarray(sum(self.products.values()), dtype=np.float64)


@shared_pass(version=1)
def loss_gradients(
    model: Model, recipe: Recipe, run: Run, *, examples: int = 256, memory_mb: int = 512, seed: int = 0
) -> LossGradients:
    """On at most `examples` of the train split, in evaluation mode.

    On fewer, where the gradients of all parameters but those of linear layers would take more than `memory_mb`.
    """
    if not model.parameters():
        raise Unavailable("no parameter of the network requires a gradient")
    unit = recipe.probe(run).unit
    judged = _judging(model, unit)
    few = _with_targets(sample_of(recipe, run, model.device, TRAIN, _AT_ONCE, seed))
    rest = _rest(model, _parameters_of(layer_pairs(judged, few)))
    each = sum(tensor.numel() * tensor.element_size() for tensor in rest.values())
    count = min(examples, (memory_mb << 20) // each) if each else examples
    if count < _FEWEST:
        raise Unavailable(
            f"the gradients of {_FEWEST} examples take {_FEWEST * each >> 20} MB, more than memory_mb in "
            "[passes.loss_gradients]"
        )
    sample = _with_targets(sample_of(recipe, run, model.device, TRAIN, count, seed))
    if len(sample) < _FEWEST:
        raise Unavailable(f"the train split has {len(sample)} examples, and it takes {_FEWEST}")
    return _measured(judged, sample)


def _measured(model: Model, sample: Sample) -> LossGradients:
    products: dict[str, Floats] = {}
    signs: dict[str, float] = {}
    pairs = layer_pairs(model, sample)
    for name, (inputs, gradients) in pairs.items():
        outer, across = product(gradients, gradients), product(inputs, inputs)
        products[f"{name}.weight"] = (outer * across).numpy()
        signs[f"{name}.weight"] = float((gradients.sign().T @ inputs.sign()).abs().double().sum())
        products[f"{name}.bias"] = outer.numpy()
        signs[f"{name}.bias"] = float(gradients.sign().sum(0).abs().double().sum())
    rest = _rest(model, _parameters_of(pairs))
    if rest:
        for name, rows in _rows(model, sample, rest).items():
            products[name] = product(rows, rows).numpy()
            signs[name] = float(rows.sign().sum(0).abs().double().sum())
    names = model.parameters()
    by_pairs = tuple(name for name in names if name not in rest)
    return LossGradients(
        {name: products[name] for name in names},
        {name: signs[name] for name in names},
        {name: each.numel() for name, each in names.items()},
        by_pairs,
        len(sample),
    )


def _rows(model: Model, sample: Sample, rest: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Gradients of some parameters, [n, elements], on the CPU."""
    part = _Part(model.module, model.recipe, model.device, part=rest)
    gradients_of, _ = example_gradients(part, sample, Directions(1, 1, 0))
    found = torch.empty(len(sample), sum(each.numel() for each in rest.values()))
    for start in range(0, len(sample), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(sample))
        found[start:stop] = gradients_of(start, stop, 0).detach()
    parts = torch.split(found, [each.numel() for each in rest.values()], dim=1)
    return dict(zip(rest, parts, strict=True))


@dataclass(frozen=True)
class _Part(Model):
    """The network as a function of some of its parameters."""

    part: Mapping[str, nn.Parameter] = field(default_factory=dict)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self.part


def _parameters_of(pairs: Mapping[str, object]) -> set[str]:
    return {f"{name}.{leaf}" for name in pairs for leaf in ("weight", "bias")}


def _rest(model: Model, known: set[str]) -> dict[str, nn.Parameter]:
    return {name: each for name, each in model.parameters().items() if name not in known}


def _with_targets(sample: Sample) -> Sample:
    return replace(sample, inputs=(sample.inputs, sample.targets))


def _judging(model: Model, unit: str) -> Model:
    """The network as one whose only output, per example, is its loss; its input is (inputs, targets)."""
    recipe = model.recipe

    def forward(module: nn.Module, both: Any) -> torch.Tensor:
        inputs, targets = both
        outputs = recipe.forward(module, inputs)
        examples = len(targets) if isinstance(targets, torch.Tensor) else len(outputs)
        found = recipe.losses(outputs, targets, inputs, examples, unit)
        weights = found.weights.detach().reshape(examples, -1)
        values = torch.where(weights != 0, found.values.reshape(examples, -1) * weights, 0.0).sum(1)
        return (values / weights.sum(1).clamp_min(1e-30))[:, None]

    return replace(model, recipe=replace(recipe, functions={**recipe.functions, "forward": forward}))
