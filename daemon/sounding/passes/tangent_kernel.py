"""The pass `tangent_kernel`: the empirical neural tangent kernel on a few examples of the probe's train split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import nn

from sounding.contract import Metric, Run, Unavailable, shared_pass
from sounding.kernels import Floats, centred, kernel_distance
from sounding.numbers import accumulating
from sounding.passes.directions import Directions, flat
from sounding.passes.example_gradients import TRIED, example_gradients
from sounding.passes.linear_pairs import linear_pairs
from sounding.passes.model import Model
from sounding.passes.remembering import remembered
from sounding.passes.sample import Sample, sample_of
from sounding.probe import TRAIN
from sounding.recipe import Recipe
from sounding.records import Checkpoint, Quality, Reading

BUDGET = 1 << 30  # bytes of gradients held at once
_FORWARD = 64  # examples in one forward pass that keeps nothing
_TOGETHER = 1e-3  # relative change of outputs in other company: more is no rounding

_REMEMBERED = 8  # kernels, of whatever runs: the first checkpoint's is asked for at each later one
_MOST_BYTES = 16 << 20  # of one of them

KERNEL_METRICS = (
    Metric("kernel_distance", "1", "1 minus the cosine between the two kernels",
           "Fort et al. 2020, Deep learning versus kernel learning"),
    Metric("centred_kernel_distance", "1", "the same of the centred kernels, 1 minus their CKA",
           "Cortes, Mohri and Rostamizadeh 2012; Kornblith et al. 2019"),
)  # fmt: skip

Method = Literal["pairs", "jacobian", "loop"]


@dataclass(frozen=True, eq=False)
class TangentKernel:
    """K(x, x') = Σ_k ⟨∂f_k(x)/∂θ, ∂f_k(x')/∂θ⟩ over the outputs k and all trainable parameters θ (the trace form).

    `method` says how it was computed: from (activation, gradient) pairs of linear layers, from Jacobians by `vmap`, or
    from one example after the other. `forwards` and `backwards` count examples that went through the network.
    """

    matrix: Floats  # [n, n]
    values: torch.Tensor  # the network's outputs f on the examples, float64 [n, outputs]
    sample: Sample
    directions: int  # of the outputs that were gone through
    method: Method
    forwards: int
    backwards: int

    @property
    def outputs(self) -> int:
        """Outputs of the network for one example."""
        return self.values.shape[1]

    @property
    def exact(self) -> bool:
        """Whether every output was gone through, and not some random directions that estimate the sum."""
        return self.directions == self.outputs

    @property
    def quality(self) -> Quality:
        """Of what is read from it."""
        return "ok" if self.exact else "unconverged"

    def distances(self, before: "TangentKernel") -> Iterator[Reading]:
        """All of `KERNEL_METRICS`, from an earlier one on the same examples."""
        inner = kernel_distance(centred(before.matrix), centred(self.matrix))
        yield Reading("kernel_distance", kernel_distance(before.matrix, self.matrix), quality=self.quality)
        yield Reading("centred_kernel_distance", inner, quality=self.quality)

    def targets(self) -> NDArray[Any] | None:
        """Classes [n], or numbers [n, …] of as many outputs; None for anything else."""
        targets = self.sample.targets
        if not isinstance(targets, torch.Tensor) or len(targets) != len(self.sample):
            return None
        numbers = targets.is_floating_point() and targets.reshape(len(targets), -1).shape[1] == self.outputs
        classes = targets.ndim == 1 and not targets.is_floating_point() and not targets.is_complex()
        return targets.cpu().numpy() if numbers or classes else None


_KERNELS: dict[tuple[str, ...], tuple[Recipe, TangentKernel]] = remembered()
_NONE = Sample(TRAIN, (), (), None, None)


@shared_pass(version=1)
def tangent_kernel(
    model: Model,
    recipe: Recipe,
    run: Run,
    checkpoint: Checkpoint,
    network: str,
    *,
    examples: int = 256,
    outputs: int = 64,
    seed: int = 0,
    most_backwards: int = 20_000,
) -> TangentKernel:
    """As `computed`; those of the last checkpoints are remembered, for the next ones to be compared with."""
    settings = {"examples": examples, "outputs": outputs, "seed": seed, "most_backwards": most_backwards}
    whose = (checkpoint.checkpoint_id, network, str(model.device), repr(settings))
    known = _KERNELS.pop(whose, None)
    if known is not None and known[0] is recipe:  # a recipe is loaded anew only when its file has changed
        found = replace(known[1], sample=sample_of(recipe, run, model.device, TRAIN, examples, seed))
    else:
        found = computed(model, recipe, run, **settings)
    if found.matrix.nbytes + found.values.nbytes <= _MOST_BYTES:
        _KERNELS[whose] = recipe, replace(found, sample=_NONE)  # inputs may be large, and are at hand
        while len(_KERNELS) > _REMEMBERED:
            _KERNELS.pop(next(iter(_KERNELS)))
    return found


def computed(
    model: Model,
    recipe: Recipe,
    run: Run,
    *,
    examples: int = 256,
    outputs: int = 64,
    seed: int = 0,
    most_backwards: int = 20_000,
) -> TangentKernel:
    """The kernel on `examples` of the train split (at most 512), in evaluation mode.

    Of a network with more than `outputs` outputs, as many random directions of them are taken, whose mean is the sum
    over all. What would take more than `most_backwards` backward passes of one example is not begun.
    """
    if not 2 <= examples <= 512:
        raise Unavailable(f"[passes.tangent_kernel] examples is {examples}, expected 2 to 512")
    if not model.parameters():
        raise Unavailable("no parameter of the network requires a gradient")
    sample = sample_of(recipe, run, model.device, TRAIN, examples, seed)
    values = values_of(model, sample)
    directions = Directions(values.shape[1], outputs, seed)
    forwards = len(sample) + _company(model, sample, values)
    found = linear_pairs(model, sample, directions)
    if found is not None:
        return TangentKernel(
            found, values, sample, len(directions), "pairs", forwards + len(sample), len(directions) * len(sample)
        )
    blocks = _blocks(len(sample), model.parameters())
    passes = len(directions) * sum((place + 1) * (stop - start) for place, (start, stop) in enumerate(blocks))
    if passes > most_backwards:
        raise Unavailable(
            f"the kernel would take {passes} backward passes of one example, more than `most_backwards`; lower "
            "`examples` or `outputs` under [passes.tangent_kernel]"
        )
    matrix, method = _by_blocks(model, sample, directions, blocks)
    return TangentKernel(matrix, values, sample, len(directions), method, forwards + TRIED + passes, TRIED + passes)


def values_of(model: Model, sample: Sample) -> torch.Tensor:
    """The network's outputs on the sample, float64 on the CPU."""
    with torch.no_grad():
        parts = [
            flat(model.outputs(sample.rows(start, stop)), stop - start).cpu().double()
            for start, stop in _cuts(len(sample), _FORWARD)
        ]
    return torch.cat(parts)


def _company(model: Model, sample: Sample, values: torch.Tensor) -> int:
    """Raises Unavailable where an example's outputs depend on the others in its batch; returns the examples it took."""
    with torch.no_grad():
        alone = flat(model.outputs(sample.rows(0, 2)), 2).cpu().double()
    if float((alone - values[:2]).norm()) > _TOGETHER * float(values[:2].norm()):
        raise Unavailable("outputs change with the other examples of a batch, so no example has a gradient of its own")
    return 2


def _by_blocks(
    model: Model, sample: Sample, directions: Directions, blocks: list[tuple[int, int]]
) -> tuple[Floats, Method]:
    """Every two blocks of examples, their gradients taken anew where all of them do not fit into memory."""
    gradients_of, method = example_gradients(model, sample, directions)
    matrix = torch.zeros(len(sample), len(sample), dtype=torch.float64)
    for number in range(len(directions)):
        for place, (start, stop) in enumerate(blocks):
            rows = gradients_of(start, stop, number)
            matrix[start:stop, start:stop] += product(rows, rows)
            for left, right in blocks[place + 1 :]:
                matrix[start:stop, left:right] += product(rows, gradients_of(left, right, number))
    upper = torch.triu(matrix, 1)
    return (upper + upper.T + torch.diag(matrix.diagonal())).numpy(), method


def product(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The product rows·columnsᵀ, summed in float64 some parameters at a time, on the CPU."""
    exact = accumulating(rows.device)
    found = torch.zeros(len(rows), len(columns), dtype=exact, device=rows.device)
    step = max(1, (1 << 22) // max(len(rows), len(columns)))
    for start in range(0, rows.shape[1], step):
        one, two = (each[:, start : start + step].to(exact) for each in (rows, columns))
        found.addmm_(one, two.T)
    return found.cpu().double()


def _blocks(examples: int, parameters: Mapping[str, nn.Parameter]) -> list[tuple[int, int]]:
    """All examples at once where their gradients fit, else blocks of which two do."""
    size = sum(each.numel() * each.element_size() for each in parameters.values())
    return _cuts(examples, examples if examples * size <= BUDGET else max(1, BUDGET // (2 * size)))


def _cuts(size: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, size)) for start in range(0, size, step)]
