"""Tangent kernels of networks of linear layers, from what goes into each layer and the gradients of what comes out."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from sounding.kernels import Floats
from sounding.numbers import accumulating
from sounding.passes.directions import Directions, flat
from sounding.passes.model import Model
from sounding.passes.sample import Sample

_SAME = 1e-4  # relative difference of a weight's gradient and the sum over pairs: more is no rounding


@dataclass
class Heard:
    """What one layer was given, and zeros added to what it gave: their gradients are the outputs'."""

    module: nn.Linear
    inputs: list[torch.Tensor] = field(default_factory=list)
    zeros: list[torch.Tensor] = field(default_factory=list)

    def used_once(self, examples: int) -> bool:
        """Whether the layer was called once, with one row for each example."""
        return len(self.inputs) == 1 and self.inputs[0].ndim == 2 and len(self.inputs[0]) == examples

    def gram(self) -> torch.Tensor:
        """AAᵀ for the weight and 1 for the bias, as far as they are trained."""
        bias = self.module.bias
        own = _gram(self.inputs[0]) * float(self.module.weight.requires_grad)
        return own + float(bias is not None and bias.requires_grad)

    def agrees(self, gradient: torch.Tensor, slopes: dict[int, torch.Tensor]) -> bool:
        """Whether the pairs' sum is the gradient of the weight, as it is unless the weight is used elsewhere too."""
        slope = slopes.get(id(self.module.weight))
        whole = torch.zeros_like(self.module.weight) if slope is None else slope
        found = gradient.T @ self.inputs[0]
        return float((found - whole).norm()) <= _SAME * float(whole.norm() + found.norm())


def linear_pairs(model: Model, sample: Sample, directions: Directions) -> Floats | None:
    """Σ over layers of (AAᵀ + 1)∘(Σ_k G_kG_kᵀ): one forward pass and one backward pass per direction k.

    A row of A is what an example put into the layer, a row of G_k the gradient of its k-th output with respect to what
    came out; the 1 is the bias's. None unless every trainable parameter belongs to a linear layer that each example
    uses once and that nothing else uses.
    """
    layers = _layers(model)
    if layers is None:
        return None
    with listening(layers), torch.enable_grad():
        outputs = flat(model.outputs(sample.inputs), len(sample))
    if not all(layer.used_once(len(sample)) for layer in layers):
        return None
    sums = [torch.zeros(len(sample), len(sample), dtype=torch.float64) for _ in layers]
    for number in range(len(directions)):
        gradients = _gradients(layers, outputs, directions, number)
        if gradients is None:
            return None
        for total, gradient in zip(sums, gradients, strict=True):
            total += _gram(gradient)
    whole = torch.zeros_like(sums[0])
    for total, layer in zip(sums, layers, strict=True):
        whole += total * layer.gram()
    return np.asarray(whole.numpy(), dtype=np.float64)


def layer_pairs(model: Model, sample: Sample) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(inputs, gradients of the summed outputs at what came out) of trained linear layers, by name.

    Of those for which the outer product of both, row by row, is each example's gradient of the weight: each example
    uses the layer once, and nothing else uses its weight.
    """
    layers = {name: Heard(each) for name, each in model.module.named_modules() if type(each) is nn.Linear}
    layers = {name: layer for name, layer in layers.items() if layer.module.weight.requires_grad}
    with listening(list(layers.values())), torch.enable_grad():
        outputs = flat(model.outputs(sample.inputs), len(sample))
    used = {name: layer for name, layer in layers.items() if layer.used_once(len(sample))}
    zeros, weights = [layer.zeros[0] for layer in used.values()], [layer.module.weight for layer in used.values()]
    if not used:
        return {}
    slopes = torch.autograd.grad(outputs.sum(), [*zeros, *weights], allow_unused=True)
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for (name, layer), slope, whole in zip(used.items(), slopes, slopes[len(used) :], strict=False):
        gradient = torch.zeros_like(layer.zeros[0]) if slope is None else slope
        if layer.agrees(gradient, {} if whole is None else {id(layer.module.weight): whole}):
            found[name] = (layer.inputs[0], gradient)
    return found


def _layers(model: Model) -> list[Heard] | None:
    """The linear layers, if no parameter that is trained belongs to anything else."""
    users: dict[int, int] = {}
    for _, each in model.module.named_parameters(remove_duplicate=False):
        users[id(each)] = users.get(id(each), 0) + 1
    modules = [each for each in model.module.modules() if type(each) is nn.Linear]
    layers = [Heard(each) for each in modules if any(own.requires_grad for own in each.parameters(recurse=False))]
    own = {id(each) for layer in layers for each in layer.module.parameters(recurse=False)}
    covered = all(id(each) in own and users[id(each)] == 1 for each in model.parameters().values())
    return layers if covered and len({id(layer.module) for layer in layers}) == len(layers) else None


@contextlib.contextmanager
def listening(layers: Sequence[Heard]) -> Iterator[None]:
    """Within, every call of the layers is noted down."""

    def hook(layer: Heard) -> torch.utils.hooks.RemovableHandle:
        def note(module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            # Zeros, as the output itself may be overwritten in place by what comes after.
            zeros = torch.zeros_like(output, requires_grad=True)
            layer.inputs.append(given[0].detach())
            layer.zeros.append(zeros)
            return output + zeros

        return layer.module.register_forward_hook(note)

    handles = [hook(layer) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gradients(
    layers: list[Heard], outputs: torch.Tensor, directions: Directions, number: int
) -> list[torch.Tensor] | None:
    """Of the outputs in one direction, by layer and example; None where the first of them show another use."""
    zeros = [layer.zeros[0] for layer in layers]
    owned = [each for layer in layers for each in layer.module.parameters(recurse=False) if each.requires_grad]
    checked = owned if number == 0 else []
    total = (outputs @ directions.get(number, outputs)).sum()
    keep = number + 1 < len(directions)
    slopes = torch.autograd.grad(total, [*zeros, *checked], retain_graph=keep, allow_unused=True)
    found = [torch.zeros_like(zero) if slope is None else slope for zero, slope in zip(zeros, slopes, strict=False)]
    known = {id(each): slope for each, slope in zip(checked, slopes[len(zeros) :], strict=True) if slope is not None}
    weighted = [(layer, slope) for layer, slope in zip(layers, found, strict=True) if layer.module.weight.requires_grad]
    if checked and not all(layer.agrees(slope, known) for layer, slope in weighted):
        return None
    return found


def _gram(rows: torch.Tensor) -> torch.Tensor:
    exact = rows.detach().to(accumulating(rows.device))
    return (exact @ exact.T).cpu().double()
