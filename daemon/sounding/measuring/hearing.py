"""Listening to modules: what they put out or take in, and what enters the head."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sounding.batch import Tapped, tensors_in
from sounding.contract import Unavailable
from sounding.measuring.listening import Heard, collected, misfit
from sounding.measuring.reducing import needs_tokens, reduced
from sounding.passes.affine import Affine, affine
from sounding.passes.head import Head
from sounding.passes.logits import as_rows, read_rows
from sounding.tap import Tap


@dataclass
class _Ear:
    """What is known of the batch that is being listened to."""

    is_open: bool = False
    size: int = 0
    counted: torch.Tensor | None = None  # tokens that count, by the inputs' attention mask

    @contextlib.contextmanager
    def open(self, size: int, inputs: Any) -> Iterator[None]:
        """Open while a batch of `size` examples goes through."""
        self.size, self.counted, self.is_open = size, _attention_mask(inputs, size), True
        try:
            yield
        finally:
            self.is_open = False


class ModuleListener:
    """The last call of every module, reduced on the spot unless the loss has to say which tokens count."""

    def __init__(self, tap: Tap, modules: Mapping[str, nn.Module]) -> None:
        self._tap = tap
        self._modules = modules
        self._ear = _Ear()
        self.forget()

    def forget(self) -> None:
        """Let go of the batch."""
        self._values: dict[str, torch.Tensor] = {}
        self._waiting: dict[str, torch.Tensor] = {}
        self._reasons: dict[str, str] = {}
        self._calls: Counter[str] = Counter()

    def hooks(self) -> list[RemovableHandle]:
        """One on every module."""
        if self._tap.of == "input":
            return [
                module.register_forward_pre_hook(partial(self._entered, name), with_kwargs=True)
                for name, module in self._modules.items()
            ]
        return [module.register_forward_hook(partial(self._left, name)) for name, module in self._modules.items()]

    def listening(self, size: int, inputs: Any) -> AbstractContextManager[None]:
        """Take note of one batch."""
        self.forget()
        return self._ear.open(size, inputs)

    def edges(self) -> Sequence[Any]:
        """None."""
        return ()

    def seen(self, heard: Heard) -> Tapped:
        """Every module's tensor."""
        counted = _counted_by(heard)
        for name, tensor in self._waiting.items():
            self._reduce(name, self._modules[name], tensor, counted)
        return collected(self._tap.pattern, list(self._modules), self._values, dict(self._calls), self._reasons)

    def _entered(self, name: str, module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self._note(name, module, (inputs, named))

    def _left(self, name: str, module: nn.Module, inputs: object, output: object) -> None:
        self._note(name, module, output)

    def _note(self, name: str, module: nn.Module, value: object) -> None:
        if not self._ear.is_open:
            return
        self._calls[name] += 1
        self._values.pop(name, None)
        self._waiting.pop(name, None)
        tensor = next(tensors_in(value), None)
        reason = "it puts out no tensor" if tensor is None else misfit(tensor, self._ear.size)
        if tensor is None or reason is not None:
            self._reasons[name] = reason or ""
        elif self._ear.counted is None and needs_tokens(self._tap.reduce, tensor):
            self._waiting[name] = tensor.detach().clone()
        else:
            self._reduce(name, module, tensor.detach(), self._ear.counted)

    def _reduce(self, name: str, module: nn.Module, tensor: torch.Tensor, counted: torch.Tensor | None) -> None:
        try:
            with torch.no_grad():
                self._values[name] = reduced(tensor, self._tap.reduce, module, counted)
        except Unavailable as reason:
            self._reasons[name] = str(reason)


class HeadListener:
    """What enters the head, laid out as the logits are."""

    def __init__(self, tap: Tap, module: nn.Module, head: Head) -> None:
        self._tap = tap
        self._head = head
        self._module = module.get_submodule(head.name)
        layer = affine(self._module)
        if layer is None:
            raise Unavailable(f"the head `{head.name}` has no weights that are a matrix")
        self._layer: Affine = layer
        self._ear = _Ear()
        self.forget()

    def forget(self) -> None:
        """Let go of the batch."""
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None
        self._calls = 0

    def hooks(self) -> list[RemovableHandle]:
        """Before the head, and after it where its output tells which position is the logits'."""
        hooks = [self._module.register_forward_pre_hook(self._entered, with_kwargs=True)]
        if self._head.reading == "position":
            hooks.append(self._module.register_forward_hook(self._left))
        return hooks

    def listening(self, size: int, inputs: Any) -> AbstractContextManager[None]:
        """Take note of one batch."""
        self.forget()
        return self._ear.open(size, inputs)

    def edges(self) -> Sequence[Any]:
        """None."""
        return ()

    def seen(self, heard: Heard) -> Tapped:
        """The features, [n, d] or [n, positions, d]."""
        if self._input is None:
            raise Unavailable(f"the head `{self._head.name}` did not run")
        features = self._as_logits(self._layer.rows(self._input), heard.outputs)
        features = features.flatten(1, -2) if features.ndim > 3 else features
        if len(features) != self._ear.size:
            raise Unavailable(
                f"what enters the head `{self._head.name}` is of shape {tuple(self._input.shape)} for {self._ear.size} "
                "examples"
            )
        counted = _counted_by(heard) if self._ear.counted is None else self._ear.counted
        kept = reduced(features, self._tap.reduce, self._module, counted)
        return Tapped({self._head.name: kept}, {self._head.name: self._calls})

    def _as_logits(self, rows: torch.Tensor, outputs: Any) -> torch.Tensor:
        made = rows if self._output is None else self._layer.rows(self._output)
        for tensor in tensors_in(outputs):
            logits = as_rows(tensor, self._head.classes)
            if logits is None:
                continue
            leading = tuple(logits.shape[:-1])
            if self._head.reading != "each" or rows.shape[:-1].numel() == logits.shape[:-1].numel():
                return read_rows(rows, self._head.reading, leading, made, logits)
        return rows

    def _entered(self, module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if self._ear.is_open:
            self._calls += 1
            given = next(tensors_in((inputs, named)), None)
            self._input = None if given is None else given.detach().clone()

    def _left(self, module: nn.Module, inputs: object, output: object) -> None:
        if self._ear.is_open and isinstance(output, torch.Tensor):
            self._output = output.detach().clone()


def _counted_by(heard: Heard) -> torch.Tensor | None:
    """The tokens that the loss counts; None where it is per example."""
    return heard.weights != 0 if heard.weights.ndim == 2 else None


def _attention_mask(inputs: Any, size: int) -> torch.Tensor | None:
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or len(mask) != size:
        return None
    return mask != 0
