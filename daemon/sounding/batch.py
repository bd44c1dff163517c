"""One batch of the traversal, as accumulators receive it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Batch:
    """Examples `start` to `start + size` of a split, with what the model made of them, detached.

    `losses` and `weights` are float64 of shape [size] (or [size, positions] for probes with unit="token").
    `gradients` is the gradient of the weighted sum of the losses by parameter name, None where the loss does not
    reach; it is there only in the train split, and only when some accumulator asked for it.
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


def moved(value: Any, device: torch.device) -> Any:
    """The same value with every tensor in it on `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(each, device) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(each, device) for each in value)
    return value
