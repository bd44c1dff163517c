"""One batch of the traversal, as accumulators receive it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from sounding.keyed import Keyed


class LinearPair(NamedTuple):
    """What an `nn.Linear` took in and the gradient of the batch's summed loss at what it put out.

    `inputs` is [n, d_in] or [n, …, d_in], `gradients` [n, d_out] or [n, …, d_out]. Of a module used several times
    both are [n, positions, ·] with the positions of all calls one after the other, so that the sum over positions of
    gradient ⊗ input is always the gradient of each example's loss.
    """

    inputs: torch.Tensor
    gradients: torch.Tensor
    calls: int


class AttentionCall(NamedTuple):
    """One attention: softmax(scale · query keyᵀ + mask).

    `query` is [n, heads, positions, d] and `key` [n, heads, positions, d]; keys that several heads share are
    repeated. `mask` is boolean (true: may be looked at) or added to the scores; `causal` says that positions look at
    none after themselves.
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    causal: bool
    mask: torch.Tensor | None


class Tapped(Keyed[str, Any]):
    """What a tap saw during one batch, by module; detached, on the model's device.

    `calls` counts how often each module ran: of several calls the last one is here (of linear modules all of them).
    `missing` says of modules that matched a pattern why nothing is here.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        calls: Mapping[str, int] | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(values)
        self.calls: Mapping[str, int] = calls or {}
        self.missing: Mapping[str, str] = missing or {}

    @property
    def only(self) -> Any:
        """What was seen at the only module of this tap, such as the head."""
        (value,) = self.values()
        return value


@dataclass(frozen=True)
class Batch:
    """Examples `start` to `start + size` of a split, with what the model made of them, detached.

    `losses` and `weights` are float64 of shape [size] (or [size, positions] for probes with unit="token").
    `gradients` is the gradient of the weighted sum of the losses by parameter name, None where the loss does not
    reach; it is there only in the train split, and only when some accumulator asked for it. `taps` holds what this
    accumulator's taps saw, by the names it gave them.
    """

    split: str
    start: int
    size: int
    inputs: Any
    targets: Any
    outputs: Any
    losses: torch.Tensor
    weights: torch.Tensor
    gradients: Mapping[str, torch.Tensor | None] | None = None
    taps: Mapping[str, Tapped] = field(default_factory=dict)


def moved(value: Any, device: torch.device) -> Any:
    """The same value with every tensor in it on `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(each, device) for each in value)
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in a nested value, in order; of records (model outputs, named tuples) those of their fields."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name))
