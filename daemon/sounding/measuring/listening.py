"""What listens to one tap's part of the network, and what it is told once a batch is done."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.hooks import RemovableHandle

from sounding.batch import Tapped
from sounding.contract import Unavailable
from sounding.measuring.placing import is_exact


class Heard(NamedTuple):
    """A batch that was run: what came out, the loss weights, and the gradients at the edges that were asked for."""

    outputs: Any
    weights: torch.Tensor
    slopes: Sequence[torch.Tensor | None] | None  # None: no gradient was taken of this batch


class Listener(Protocol):
    """Listens to one tap. Hooks stay for the traversal; they take note only while `listening`."""

    def hooks(self) -> list[RemovableHandle]:
        """Place hooks on the network."""
        ...

    def listening(self, size: int, inputs: Any) -> AbstractContextManager[None]:
        """Take note of what happens inside, with a batch of `size` examples."""
        ...

    def edges(self) -> Sequence[Any]:
        """Where gradients are wanted, from this batch's forward."""
        ...

    def seen(self, heard: Heard) -> Tapped:
        """What was seen. Raises Unavailable naming the layer that could not be."""
        ...

    def forget(self) -> None:
        """Let go of the batch."""
        ...


def collected(
    pattern: str, names: Sequence[str], values: dict[str, Any], calls: dict[str, int], reasons: dict[str, str]
) -> Tapped:
    """What was seen of `names`; those without a value are missing, with a reason.

    Raises Unavailable when the one layer that was named, or every layer, is missing.
    """
    missing = {name: reasons.get(name, "it did not run") for name in names if name not in values}
    if missing and (not values or is_exact(pattern)):
        name, reason = next(iter(missing.items()))
        others = f" (nor can {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise Unavailable(f"the layer `{name}` cannot be tapped{others}: {reason}")
    return Tapped({name: values[name] for name in names if name in values}, calls, missing)


def misfit(tensor: torch.Tensor, size: int) -> str | None:
    """Why a tensor is none that has an entry per example; None where it is."""
    if tensor.ndim and tensor.shape[0] == size and tensor.is_floating_point():
        return None
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"it puts out {kind} of shape {tuple(tensor.shape)} for {size} examples, whose first dimension they are not"
