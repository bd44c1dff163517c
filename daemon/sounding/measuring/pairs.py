"""Listening to linear layers: their inputs, and the gradients of the batch's summed loss at their outputs."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.hooks import RemovableHandle

from sounding.batch import LinearPair, Tapped
from sounding.measuring.listening import Heard, collected, misfit
from sounding.tap import Tap


class _Call(NamedTuple):
    given: torch.Tensor
    version: int
    edge: Any  # the output as the graph knows it: what is written over it in place does not count
    shape: torch.Size


class LinearListener:
    """Every call of every `nn.Linear`, in batches of which the gradient is taken."""

    def __init__(self, tap: Tap, modules: Mapping[str, nn.Module]) -> None:
        self._tap = tap
        self._modules = modules
        self._on = False
        self._size = 0
        self.forget()

    def forget(self) -> None:
        """Let go of the batch."""
        self._called: dict[str, list[_Call]] = {}
        self._reasons: dict[str, str] = {}

    def hooks(self) -> list[RemovableHandle]:
        """One after every module."""
        return [module.register_forward_hook(partial(self._left, name)) for name, module in self._modules.items()]

    @contextlib.contextmanager
    def listening(self, size: int, inputs: Any) -> Iterator[None]:
        """Take note of one batch."""
        self.forget()
        self._size, self._on = size, torch.is_grad_enabled()
        try:
            yield
        finally:
            self._on = False

    def edges(self) -> Sequence[Any]:
        """The outputs, as autograd knows them."""
        return [call.edge for calls in self._called.values() for call in calls]

    def seen(self, heard: Heard) -> Tapped:
        """Pairs by module; nothing where no gradient was taken."""
        if heard.slopes is None:
            return Tapped({})
        slopes = iter(heard.slopes)
        pairs: dict[str, LinearPair] = {}
        for name, calls in self._called.items():
            own = [(call, next(slopes)) for call in calls]
            if name in self._reasons:
                continue
            if any(call.given._version != call.version for call in calls):
                self._reasons[name] = "its input is written over in place after it was used"
                continue
            pairs[name] = _pair(own)
        counts = {name: pair.calls for name, pair in pairs.items()}
        return collected(self._tap.pattern, list(self._modules), pairs, counts, self._reasons)

    def _left(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not self._on:
            return
        given = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
        if given is None or not isinstance(output, torch.Tensor):
            self._reasons[name] = "it is not called with a tensor"
        elif reason := misfit(output, self._size):
            self._reasons[name] = reason
        elif not output.requires_grad:
            self._reasons[name] = "no gradient reaches it"
        else:
            kept = given.detach()
            call = _Call(kept, kept._version, get_gradient_edge(output), output.shape)
            self._called.setdefault(name, []).append(call)


def _pair(calls: Sequence[tuple[_Call, torch.Tensor | None]]) -> LinearPair:
    inputs = [call.given for call, _ in calls]
    gradients = [
        call.given.new_zeros(call.shape) if slope is None else slope.detach() for call, slope in calls
    ]  # a call that the loss does not depend on
    if len(calls) == 1:
        return LinearPair(inputs[0], gradients[0], 1)
    return LinearPair(_along_positions(inputs), _along_positions(gradients), len(calls))


def _along_positions(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([each.unsqueeze(1) if each.ndim == 2 else each.flatten(1, -2) for each in tensors], dim=1)
