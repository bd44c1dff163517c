"""Layers that compute W x + b for every row, and what they were seen to do."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Relative to the largest output: what rounding makes of W x + b computed another way (float32 products of a GPU may
# be of 10 bits). A layer that does something else as well is off by far more.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-3}
_COARSE = 3e-2
_ROWS = 64
_KEPT = 16  # layers with weights that ran last: what they saw is kept, and a head is among them


@dataclass(frozen=True, eq=False)
class Seen:
    """One module's last call during a forward, and how often it was called."""

    module: nn.Module
    input: torch.Tensor
    output: torch.Tensor
    calls: int


@dataclass(frozen=True, eq=False)
class Affine:
    """A layer's weights as a matrix [classes, d]; `spatial` layers keep their channels in the second dimension."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    spatial: bool

    @property
    def classes(self) -> int:
        """How many values it puts out per row."""
        return self.weight.shape[0]

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """What enters or leaves the layer as [n, …, channels]."""
        return tensor.movedim(1, -1) if self.spatial else tensor

    def scaled(self, factor: float) -> "Affine":
        """The layer whose outputs are `factor` times this one's."""
        if factor == 1:
            return self
        return replace(self, weight=self.weight * factor, bias=None if self.bias is None else self.bias * factor)

    def computes(self, seen: Seen) -> bool:
        """Whether what it put out is W x + b of what entered, up to rounding."""
        rows, given = self.rows(seen.input), self.rows(seen.output)
        if rows.shape[-1] != self.weight.shape[1] or given.shape[-1] != self.classes or not rows.is_floating_point():
            return False
        if rows.shape[:-1] != given.shape[:-1]:
            return False
        few = some_rows(rows.flatten(0, -2))
        made = few.to(self.weight.dtype) @ self.weight.T
        made = made if self.bias is None else made + self.bias
        return close(made, some_rows(given.flatten(0, -2)), _ROUNDING.get(given.dtype, _COARSE))


def affine(module: nn.Module) -> Affine | None:
    """A module's weights and bias as a matrix, float32 at least; None where it has none that are one."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        return None
    if type(module).__name__ == "Conv1D" and weight.ndim == 2:  # Hugging Face's: stored the other way round
        weight = weight.T
    spatial = isinstance(module, _CONVOLUTIONS)
    if spatial:
        if weight[0, 0].numel() != 1 or getattr(module, "groups", 1) != 1:
            return None
        weight = weight.flatten(1)
    if weight.ndim != 2 or isinstance(module, nn.Embedding):
        return None
    bias = bias.detach() if isinstance(bias, torch.Tensor) else None
    return Affine(_exact(weight.detach()), None if bias is None else _exact(bias), spatial)


def some_rows(rows: torch.Tensor) -> torch.Tensor:
    """At most 64 of the rows, evenly spread: a vocabulary times all positions need not be compared."""
    return rows[:: max(1, len(rows) // _ROWS)][:_ROWS]


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Whether no difference exceeds `tolerance` of the largest value; never where that is zero or not finite."""
    if one.shape != other.shape or not other.numel():
        return False
    difference = (one.double() - other.double()).abs().max()
    largest = other.double().abs().max()
    return bool(difference <= tolerance * largest) and bool(largest > 0) and bool(largest.isfinite())


@contextlib.contextmanager
def watched(module: nn.Module, names: Collection[str] = ()) -> Iterator[dict[str, Seen]]:
    """The last modules with weights that run meanwhile, by name, in the order of their last calls; `names` always."""
    seen: dict[str, Seen] = {}
    calls: Counter[str] = Counter()

    def note(name: str, child: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        given = next((each for each in (*inputs, *named.values()) if isinstance(each, torch.Tensor)), None)
        if given is None or not isinstance(output, torch.Tensor):
            return
        calls[name] += 1
        seen.pop(name, None)
        # Copies: what comes after may write over either.
        seen[name] = Seen(child, given.detach().clone(), output.detach().clone(), calls[name])
        for passed in [each for each in seen if each not in names][:-_KEPT]:
            del seen[passed]

    hooks = [
        child.register_forward_hook(_naming(note, name), with_kwargs=True)
        for name, child in module.named_modules()
        if isinstance(getattr(child, "weight", None), torch.Tensor) and (name or not list(child.children()))
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _naming(note: Callable[..., None], name: str) -> Callable[..., None]:
    def hook(*seen: Any) -> None:
        note(name, *seen)

    return hook


def _exact(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
