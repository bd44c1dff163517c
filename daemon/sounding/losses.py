"""Per-example and per-token losses: the default one, and the check of what an operator's loss returned."""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from sounding.errors import SoundingError

IGNORED = -100  # target of a position that does not count, torch's convention


class Losses(NamedTuple):
    """Losses of a batch and the weight of each in the mean; shape [examples] or [examples, positions]."""

    values: torch.Tensor
    weights: torch.Tensor


def default_loss(outputs: Any, targets: Any) -> Losses:
    """Cross-entropy in nats from class logits: [n, classes] with [n], or [n, positions, classes] with [n, positions].

    Position t's target is what its logits predict: nothing is shifted here. Targets of -100 weigh nothing. Half
    precision logits are raised to float32 first.
    """
    fits = isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor)
    fits = fits and outputs.ndim in (2, 3) and outputs.shape[:-1] == targets.shape and is_integral(targets)
    if not fits:
        raise SoundingError(
            f"no default loss fits outputs {_shape(outputs)} and targets {_shape(targets)}; cross-entropy expects "
            "logits [n, classes] and integer targets [n] (or [n, positions, classes] and [n, positions]). "
            "Write `def loss(outputs, targets, inputs)` in the recipe, returning one loss per example."
        )
    logits = outputs if outputs.dtype == torch.float64 else outputs.float()
    labels = targets.long()
    values = cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none", ignore_index=IGNORED)
    return Losses(values.reshape(labels.shape), (labels != IGNORED).to(values.dtype))


def checked_losses(returned: Any, examples: int, unit: str) -> Losses:
    """What the recipe's loss returned, as losses and weights. Raises SoundingError unless it is per `unit`."""
    values, weights = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not isinstance(values, torch.Tensor):
        raise SoundingError(f"the recipe's loss returned a {type(values).__name__}, expected a tensor of losses.")
    dimensions = 1 if unit == "example" else 2
    if values.ndim != dimensions or values.shape[0] != examples:
        wanted = f"[{examples}], one per example" if unit == "example" else f"[{examples}, positions], one per token"
        raise SoundingError(
            f"the recipe's loss returned shape {tuple(values.shape)} for {examples} examples, expected {wanted}; "
            'use reduction="none" and, for several values per example, their mean over the other dimensions'
            + (' (or Probe(unit="token")).' if unit == "example" else ".")
        )
    if weights is None:
        return Losses(values, torch.ones_like(values))
    if not isinstance(weights, torch.Tensor) or weights.shape != values.shape:
        raise SoundingError(f"the recipe's loss weights are {_shape(weights)}, expected shape {tuple(values.shape)}.")
    return Losses(values, weights.to(values.dtype))


def is_integral(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds class indices."""
    return tensor.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _shape(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    return f"of type {type(value).__name__}"
