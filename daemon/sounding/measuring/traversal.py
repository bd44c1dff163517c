"""The one traversal of the probe that fills every accumulator a job wants."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sounding.batch import Batch, moved
from sounding.contract import Accumulator
from sounding.errors import SoundingError
from sounding.measuring.devices import what_would_fit
from sounding.numbers import accumulating
from sounding.passes.model import Model
from sounding.probe import TRAIN, Probe, Split
from sounding.seeds import preserved

BUDGET = 256 << 20  # bytes of activations per batch; a constant, so that equal devices cut equal batches
_FIRST = 8  # examples in the first batch, from which the others' size is measured
_MOST = 4096
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class Wanted:
    """An accumulator to be filled: how to make an empty one, and whether it needs gradients."""

    make: Callable[[], Accumulator[Batch, Any]]
    gradients: bool = False


class _OutOfMemory(Exception):
    def __init__(self, size: int, message: str) -> None:
        super().__init__(message)
        self.size = size


def traverse(
    model: Model, probe: Probe, wanted: Mapping[str, Wanted], budget: int = BUDGET, at_most: int = _MOST
) -> dict[str, object]:
    """Run the model once over every split; return each accumulator's result, or the exception it raised.

    When memory runs out everything starts again with batches half as large. Raises SoundingError when not one
    example fits, and whatever the operator's forward and loss raise. RNG, modes and hooks are as before afterwards.
    """
    while True:
        try:
            with undisturbed(model.module):
                return _once(model, probe, wanted, budget, at_most)
        except _OutOfMemory as error:
            if error.size == 1:
                raise SoundingError(
                    f"not one example fits into the memory of {model.device} ({error}); {what_would_fit(model.device)}."
                ) from error
            at_most = error.size // 2
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


def _once(model: Model, probe: Probe, wanted: Mapping[str, Wanted], budget: int, at_most: int) -> dict[str, object]:
    fills = {name: _Fill(each) for name, each in wanted.items()}
    size = min(_FIRST, at_most)
    measured = False
    for split in probe.splits.values():
        start = 0
        while start < split.size and any(fill.live for fill in fills.values()):
            stop = min(start + size, split.size)
            gradients = split.name == TRAIN and any(fill.live and fill.gradients for fill in fills.values())
            try:
                with _spending(model.module) as spent:
                    batch = take(model, probe.unit, split, start, stop, gradients)
                for fill in fills.values():
                    fill.update(batch)
            except (MemoryError, RuntimeError) as error:
                raise _OutOfMemory(stop - start, str(error)) if is_out_of_memory(error) else error from error
            if not measured:
                each = max(1, sum(spent) * (2 if gradients else 1) // (stop - start))
                size, measured = max(1, min(at_most, budget // each)), True
            start = stop
    return {name: fill.result() for name, fill in fills.items()}


class _Fill:
    """An accumulator being filled; from its first failure on it is left alone, and the failure is its result."""

    def __init__(self, wanted: Wanted) -> None:
        self.gradients = wanted.gradients
        self._failure: Exception | None = None
        self._accumulator: Accumulator[Batch, Any] | None = None
        with self._guarded():
            self._accumulator = wanted.make()

    @property
    def live(self) -> bool:
        return self._failure is None

    def update(self, batch: Batch) -> None:
        if self._failure is None and self._accumulator is not None:
            with self._guarded():
                self._accumulator.update(batch)

    def result(self) -> object:
        if self._failure is None and self._accumulator is not None:
            with self._guarded():
                return self._accumulator.result()
        return self._failure

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # foreign code; its failure is its result
            if is_out_of_memory(error):
                raise
            self._failure = error


def take(model: Model, unit: str, split: Split, start: int, stop: int, gradients: bool = False) -> Batch:
    """Run the model on some examples of a split; `gradients` also takes the gradient of their summed loss."""
    inputs, targets = (moved(each, model.device) for each in split.batch(start, stop))
    size = stop - start
    with torch.set_grad_enabled(gradients):
        outputs = model.outputs(inputs)
        losses = model.losses(outputs, targets, inputs, size, unit)
        slopes = _gradients(model, losses.values, losses.weights) if gradients else None
    exact = accumulating(model.device)
    values, weights = (each.detach().to(exact) for each in losses)
    return Batch(split.name, start, size, inputs, targets, _detached(outputs), values, weights, slopes)


def _gradients(model: Model, values: torch.Tensor, weights: torch.Tensor) -> Mapping[str, torch.Tensor | None]:
    parameters = model.parameters()
    total = torch.where(weights != 0, values * weights, 0.0).sum()
    if not total.requires_grad:
        raise SoundingError(
            "the loss does not depend on any parameter that requires a gradient; "
            "do not detach in the recipe's `forward` or `loss`, nor freeze the whole network in `architecture`."
        )
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller batches might help."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; random states and every submodule's mode as before afterwards."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with preserved():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode


@contextlib.contextmanager
def _spending(module: nn.Module) -> Iterator[list[int]]:
    """Bytes that innermost modules put out meanwhile: what a backward pass would have to keep, near enough."""
    spent: list[int] = []

    def note(child: nn.Module, inputs: object, output: object) -> None:
        spent.extend(leaf.nbytes for leaf in _leaves(output))

    hooks = [child.register_forward_hook(note) for child in module.modules() if not list(child.children())]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def _leaves(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {key: _detached(each) for key, each in value.items()}
    return value
