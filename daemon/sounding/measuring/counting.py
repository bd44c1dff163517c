"""How much of a network's time something takes: examples that go forward and backward through it, counted by hooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.autograd.graph import register_multi_grad_hook

from sounding.batch import tensors_in


@dataclass
class Count:
    """Examples that went through; a second derivative goes backward twice.

    Of what `vmap` maps over all are counted, and of a batch of gradients by `is_grads_batched` one.
    """

    forwards: int = 0
    backwards: int = 0

    def __deepcopy__(self, memo: Mapping[int, Any]) -> "Count":
        return self  # a copy of a network that is counted is counted too


def counted(module: nn.Module, count: Count) -> nn.Module:
    """The same module, whose calls, and gradients through what they put out, are added up in `count`."""

    def note(called: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        given = next(tensors_in((inputs, named)), None)
        examples = 0 if given is None or not given.ndim else len(given)
        count.forwards += examples * (1 if given is None else _mapped(given))
        leaves = [each for each in tensors_in(output) if each.requires_grad]
        if leaves:
            register_multi_grad_hook(leaves, partial(_went_back, count, examples), mode="any")

    module.register_forward_hook(note, with_kwargs=True)
    return module


def _went_back(count: Count, examples: int, gradient: torch.Tensor) -> None:
    count.backwards += examples * _mapped(gradient)


def _mapped(tensor: torch.Tensor) -> int:
    """How many tensors `vmap` has this one stand for."""
    times = 1
    while is_functorch_wrapped_tensor(tensor):
        inner = get_unwrapped(tensor)
        times *= inner.numel() // max(1, tensor.numel())
        tensor = inner
    return times
