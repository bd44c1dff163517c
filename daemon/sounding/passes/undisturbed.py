"""A network that is looked at and left as it was: modes, gradients, buffers, hooks and random states."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from sounding.seeds import preserved

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards everything but the parameters' values is as before, whatever was raised."""
    children = list(module.modules())
    modes = {child: child.training for child in children}
    hooks = [
        (owned, set(owned)) for child in children for kind in _HOOKS if (owned := getattr(child, kind)) is not None
    ]
    parameters = [(each, each.requires_grad, each.grad) for each in module.parameters()]
    buffers = [_Buffer(child, name) for child in children for name in child._buffers]
    module.eval()
    try:
        with preserved():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        for owned, before in hooks:
            for added in set(owned) - before:
                del owned[added]
        for parameter, wanted, gradient in parameters:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
        for buffer in buffers:
            buffer.restore()


class _Buffer:
    """A buffer with a copy of its bytes: running statistics, counters, masks."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        self._owner, self._name = owner, name
        self._tensor: Any = owner._buffers[name]
        self._version = -1 if self._tensor is None else self._tensor._version
        self._bytes = None if self._tensor is None else self._tensor.detach().clone()

    def restore(self) -> None:
        self._owner._buffers[self._name] = self._tensor
        if self._bytes is not None and self._tensor._version != self._version:
            with torch.no_grad():
                self._tensor.copy_(self._bytes)
