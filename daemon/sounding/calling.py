"""Calling a function of a network with other tensors in place of the network's own."""

from collections.abc import Callable
from typing import Any

from torch import nn


class Called(nn.Module):
    """`function(module, …)` as a module: `functional_call` takes the names of `module`'s tensors as "module.NAME"."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self._function = function

    def forward(self, *given: Any) -> Any:
        """What the function makes of the module and `given`."""
        return self._function(self.module, *given)
