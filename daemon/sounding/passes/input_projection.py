"""The few directions of the input that a network relies on: the rest of it may be another example's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sounding.passes.responses import Responses


@dataclass(frozen=True, eq=False)
class Swapped:
    """How outputs change, by example, when a part of each input is another example's."""

    predictions: torch.Tensor | None  # whether the prediction changes; None without classes
    logits: torch.Tensor  # |f(mixed) - f(x)| / |f(x)|, of the examples whose outputs are not all zero

    @property
    def change(self) -> float:
        """The share of predictions that change, or the mean relative change of the outputs where there are none."""
        return float((self.logits if self.predictions is None else self.predictions.double()).mean())


@dataclass(frozen=True, eq=False)
class InputProjection:
    """P projects on the first `rank` right singular vectors of the first layer's weight."""

    rank: int
    dimension: int  # of the input
    complement: Swapped  # what is outside P is another example's
    projection: Swapped  # what is inside P is
    by_rank: dict[int, float]  # change with the complement swapped, of every rank that was looked at


def projection_of(responses: Responses, tolerance: float, seed: int) -> InputProjection | str:
    """The smallest rank of P with which f(Px + (I - P)x') changes from f(x) within `tolerance`; or why there is none.

    Every example's x' is another one of the sample. The rank is looked for by doubling and bisection, as if the
    change fell with the rank. At the rank of the weight itself nothing changes.
    """
    inputs = responses.sample.inputs
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        return "inputs are no tensor of numbers: they have no linear projection"
    layer = _first_layer(responses, inputs)
    if isinstance(layer, str):
        return layer
    before = responses.to(inputs)
    if before is None or len(inputs) < 2:
        return "outputs are no rows of numbers, or there is one example only"
    basis = torch.linalg.svd(layer.weight.detach().cpu().double(), full_matrices=False)[2].T
    partners = inputs[_partners(len(inputs), seed).to(inputs.device)]
    swap = _Swap(responses, inputs, partners, basis, before)
    found: dict[int, Swapped] = {}

    def change(rank: int) -> float:
        if rank not in found:
            found[rank] = swap.at(rank, inside=False)
        return found[rank].change

    rank = _smallest(change, basis.shape[1], tolerance)
    by_rank = {each: found[each].change for each in sorted(found)}
    return InputProjection(rank, inputs[0].numel(), found[rank], swap.at(rank, inside=True), by_rank)


@dataclass(frozen=True, eq=False)
class _Swap:
    responses: Responses
    inputs: torch.Tensor
    partners: torch.Tensor
    basis: torch.Tensor
    before: torch.Tensor

    def at(self, rank: int, *, inside: bool) -> Swapped:
        """With the part inside (or outside) the span of the first `rank` columns of `basis` swapped."""
        basis = self.basis[:, :rank]
        own, other = (each.reshape(len(each), -1).cpu().double() for each in (self.inputs, self.partners))
        moved = ((other - own) @ basis) @ basis.T
        mixed = own + moved if inside else other - moved
        after = self.responses.to(mixed.to(self.inputs).reshape(self.inputs.shape))
        assert after is not None, "outputs had this form before"
        norms = self.before.norm(dim=1)
        logits = ((after - self.before).norm(dim=1) / norms)[norms > 0]
        sorts = self.responses.classes is not None and after.shape[1] > 1
        return Swapped(after.argmax(1) != self.before.argmax(1) if sorts else None, logits)


def _smallest(change: Callable[[int], float], most: int, tolerance: float) -> int:
    low, high = 0, 1
    while change(high) > tolerance and high < most:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if change(middle) <= tolerance else (middle, high)
    return high


def _partners(count: int, seed: int) -> torch.Tensor:
    """Another example for every one, each taken once."""
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partners = torch.empty_like(shuffled)
    partners[shuffled] = shuffled.roll(1)
    return partners


def _first_layer(responses: Responses, inputs: torch.Tensor) -> nn.Linear | str:
    """The linear layer that the input enters first, as it is; or why there is none."""
    few = inputs[:2]
    name, module, given = _first_called(responses, few)
    if module is None:
        return "no layer with weights was called"
    if not isinstance(module, nn.Linear):
        return f"the first layer with weights, `{name}`, is a {type(module).__name__}, no linear layer"
    if not isinstance(given, torch.Tensor) or given.shape != (len(few), module.in_features):
        return f"the first layer, `{name}`, is given something else than one row per example"
    if not torch.equal(given, few.reshape(len(few), -1).to(given)):
        return f"what the first layer, `{name}`, is given is not the input itself"
    return module


def _first_called(responses: Responses, few: torch.Tensor) -> tuple[str, nn.Module | None, Any]:
    """The module with weights of its own that is called first, and what it is given."""
    seen: list[tuple[str, nn.Module, Any]] = []

    def hook(name: str) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, given: Any) -> None:
            if not seen:
                seen.append((name, module, given[0] if given else None))

        return note

    modules = responses.model.module.named_modules()
    owners = [(name, each) for name, each in modules if next(each.parameters(recurse=False), None) is not None]
    handles = [each.register_forward_pre_hook(hook(name)) for name, each in owners]
    try:
        responses.to(few)
    finally:
        for handle in handles:
            handle.remove()
    return seen[0] if seen else ("", None, None)
