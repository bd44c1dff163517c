"""The pass `layer_grams`: what goes into every linear layer and which gradients come back, as Gram matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sounding.contract import Run, Unavailable, shared_pass
from sounding.passes.directions import Directions, flat
from sounding.passes.linear_pairs import Heard, listening
from sounding.passes.model import Model
from sounding.passes.sample import Sample, sample_of
from sounding.probe import TRAIN, rows_of
from sounding.recipe import Recipe

_AT_ONCE = 64  # examples


@dataclass(frozen=True, eq=False)
class LayerGram:
    """Sums over rows (examples, or examples and positions) of one linear layer; float64 on the CPU.

    `inputs` is Σ aaᵀ with a 1 put behind every input a; `gradients` is Σ ggᵀ, g the gradient of an example's loss at
    what the layer puts out; `jacobian` is Σ over outputs k of the network of Σ jjᵀ, j the gradient of output k there.
    """

    weight: torch.Tensor  # [d_out, d_in]
    inputs: torch.Tensor  # [d_in + 1, d_in + 1]
    gradients: torch.Tensor  # [d_out, d_out]
    jacobian: torch.Tensor  # [d_out, d_out]
    rows: int
    rectified: bool  # whether no input was negative, and some were zero
    fired: torch.Tensor  # int64 [d_in]: rows in which the input was positive
    pattern: torch.Tensor  # int64 [d_in, 2]: digests of the rows in which it was


@dataclass(frozen=True)
class LayerGrams:
    """By name of the layer; `exact` unless the network has more outputs than directions were taken."""

    layers: Mapping[str, LayerGram]
    examples: int
    exact: bool


@shared_pass(version=1)
def layer_grams(
    model: Model, recipe: Recipe, run: Run, *, examples: int = 512, outputs: int = 32, seed: int = 0
) -> LayerGrams:
    """Of at most `examples` of the train split, in evaluation mode.

    That takes one backward pass for the loss, and one for each output of the network, or for `outputs` random
    directions of them where there are more.
    """
    sample = sample_of(recipe, run, model.device, TRAIN, examples, seed)
    unit = recipe.probe(run).unit
    layers = {
        name: each
        for name, each in model.module.named_modules()
        if type(each) is nn.Linear and each.weight.requires_grad
    }
    if not layers:
        raise Unavailable("the network has no linear layer whose weight is trained")
    sums = {name: _Sums(each) for name, each in layers.items()}
    exact = True
    for start in range(0, len(sample), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(sample))
        exact = _take(model, sample, unit, range(start, stop), sums, outputs, seed)
    found = {name: each.result() for name, each in sums.items() if each.rows}
    if not found:
        raise Unavailable("no linear layer is called by name, so that nothing can be seen of them")
    return LayerGrams(found, len(sample), exact)


def _take(
    model: Model, sample: Sample, unit: str, chunk: range, sums: Mapping[str, "_Sums"], outputs: int, seed: int
) -> bool:
    """Take in a chunk of the sample; whether every output was gone through."""
    inputs = sample.rows(chunk.start, chunk.stop)
    targets = rows_of(sample.targets, slice(chunk.start, chunk.stop))
    heard = {name: Heard(each.module) for name, each in sums.items()}
    with listening(list(heard.values())), torch.enable_grad():
        found = model.outputs(inputs)
        losses = model.losses(found, targets, inputs, len(chunk), unit)
        rows = flat(found, len(chunk))
    total = torch.where(losses.weights != 0, losses.values * losses.weights.detach(), 0.0).sum()
    zeros = [zero for each in heard.values() for zero in each.zeros]
    slopes = iter(torch.autograd.grad(total, zeros, retain_graph=True, allow_unused=True))
    for name, each in heard.items():
        sums[name].see(each, chunk, [next(slopes) for _ in each.zeros])
    directions = Directions(rows.shape[1], outputs, seed)
    for number in range(len(directions)):
        along = (rows @ directions.get(number, rows)).sum()
        back = iter(torch.autograd.grad(along, zeros, retain_graph=number + 1 < len(directions), allow_unused=True))
        for name, each in heard.items():
            sums[name].feel([next(back) for _ in each.zeros])
    return len(directions) == rows.shape[1]


class _Sums:
    """Of one layer, over chunks."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module
        d_out, d_in = module.weight.shape
        self._inputs = torch.zeros(d_in + 1, d_in + 1, dtype=torch.float64)
        self._gradients = torch.zeros(d_out, d_out, dtype=torch.float64)
        self._jacobian = torch.zeros(d_out, d_out, dtype=torch.float64)
        self._fired = torch.zeros(d_in, dtype=torch.int64)
        self._pattern = torch.zeros(d_in, 2, dtype=torch.int64)
        self._least, self._zeros = 0.0, False
        self.rows = 0

    def see(self, heard: Heard, chunk: range, slopes: Sequence[torch.Tensor | None]) -> None:
        """What the layer was given for a chunk, and the gradients of the loss."""
        for call, given in enumerate(heard.inputs):
            rows = _rows(given)
            self._inputs += _gram(torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1))
            positive = rows > 0
            self._fired += positive.sum(0)
            generator = torch.Generator().manual_seed((chunk.start * 1_009 + call) * 2 + 1)
            marks = torch.randint(-(2**62), 2**62, (len(rows), 2), generator=generator)
            self._pattern += positive.T.long() @ marks  # wraps around, which is as good
            self._least = min(self._least, float(rows.min()))
            self._zeros = self._zeros or bool((rows == 0).any())
            self.rows += len(rows)
        for slope in slopes:
            if slope is not None:
                self._gradients += _gram(_rows(slope))

    def feel(self, slopes: Sequence[torch.Tensor | None]) -> None:
        """Gradients of the outputs in one direction."""
        for slope in slopes:
            if slope is not None:
                self._jacobian += _gram(_rows(slope))

    def result(self) -> LayerGram:
        rectified = self._least >= 0.0 and self._zeros
        weight = self.module.weight.detach().cpu().double()
        return LayerGram(
            weight, self._inputs, self._gradients, self._jacobian, self.rows, rectified, self._fired, self._pattern
        )


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1, tensor.shape[-1]).cpu()


def _gram(rows: torch.Tensor) -> torch.Tensor:
    exact = rows.double()
    return exact.T @ exact
