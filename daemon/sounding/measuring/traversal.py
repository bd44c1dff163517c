"""The one traversal of the probe that fills every accumulator a job wants."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from sounding.batch import Batch, moved, tensors_in
from sounding.contract import Accumulator
from sounding.errors import SoundingError
from sounding.losses import Losses
from sounding.measuring.devices import what_would_fit
from sounding.measuring.listening import Heard
from sounding.measuring.tapping import HeadOrWhy, Tapping
from sounding.numbers import accumulating
from sounding.passes.model import Model
from sounding.passes.undisturbed import undisturbed
from sounding.probe import TRAIN, Probe, Split
from sounding.tap import Tap

BUDGET = 256 << 20  # bytes of activations per batch; a constant, so that equal devices cut equal batches
_FIRST = 8  # examples in the first batch, from which the others' size is measured
_MOST = 4096
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@dataclass(frozen=True)
class Wanted:
    """An accumulator to be filled: how to make an empty one, whether it needs gradients, and what it taps."""

    make: Callable[[], Accumulator[Batch, Any]]
    gradients: bool = False
    taps: Mapping[str, Tap] = field(default_factory=dict)


class _OutOfMemory(Exception):
    def __init__(self, size: int, message: str) -> None:
        super().__init__(message)
        self.size = size


class _NoGradient(SoundingError):
    """The loss has no gradient: the failure of those who need one."""


def traverse(
    model: Model,
    probe: Probe,
    wanted: Mapping[str, Wanted],
    budget: int = BUDGET,
    at_most: int = _MOST,
    head: HeadOrWhy = None,
) -> dict[str, object]:
    """Run the model once over every split; return each accumulator's result, or the exception it raised.

    When memory runs out everything starts again with batches half as large. Raises SoundingError when not one
    example fits, and whatever the operator's forward and loss raise. RNG, modes and hooks are as before afterwards.
    `head` is the model's, or why it has none, for those who tap it.
    """
    while True:
        try:
            fills = {name: _Fill(each) for name, each in wanted.items()}
            tapping = Tapping(model.module, (tap for fill in fills.values() for tap in fill.taps.values()), head)
            with undisturbed(model.module), tapping.placed():
                return _once(model, probe, fills, tapping, budget, at_most)
        except _OutOfMemory as error:
            if error.size == 1:
                raise SoundingError(
                    f"not one example fits into the memory of {model.device} ({error}); {what_would_fit(model.device)}."
                ) from error
            at_most = error.size // 2
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


def _once(
    model: Model, probe: Probe, fills: "Mapping[str, _Fill]", tapping: Tapping, budget: int, at_most: int
) -> dict[str, object]:
    size = min(_FIRST, at_most)
    measured = False
    for split in probe.splits.values():
        start = 0
        while start < split.size and any(fill.live for fill in fills.values()):
            stop = min(start + size, split.size)
            try:
                with _spending(model.module, on=not measured) as spent:
                    batch = _taken(model, probe, split, range(start, stop), fills, tapping)
                for fill in fills.values():
                    fill.update(batch, tapping)
            except (MemoryError, RuntimeError) as error:
                raise _OutOfMemory(stop - start, str(error)) if is_out_of_memory(error) else error from error
            if not measured:
                graph = 2 if split.name == TRAIN and any(fill.differentiates for fill in fills.values()) else 1
                each = max(1, (sum(spent) * graph + tapping.held()) // (stop - start))
                size, measured = max(1, min(at_most, budget // each)), True
            start = stop
    return {name: fill.result() for name, fill in fills.items()}


def _taken(
    model: Model, probe: Probe, split: Split, place: range, fills: "Mapping[str, _Fill]", tapping: Tapping
) -> Batch:
    """The batch with the gradients that live accumulators ask for; those alone fail when there is no gradient."""
    live = [fill for fill in fills.values() if fill.live and split.name == TRAIN]
    gradients, pairs = any(fill.gradients for fill in live), any(fill.taps_gradients for fill in live)
    try:
        return take(model, probe.unit, split, place.start, place.stop, gradients, tapping, pairs)
    except _NoGradient as failure:
        for fill in live:
            fill.fail_without_gradient(failure)
        return take(model, probe.unit, split, place.start, place.stop, tapping=tapping)


class _Fill:
    """An accumulator being filled; from its first failure on it is left alone, and the failure is its result."""

    def __init__(self, wanted: Wanted) -> None:
        self.gradients = wanted.gradients
        self.taps = wanted.taps
        self.taps_gradients = any(tap.kind == "linear" for tap in wanted.taps.values())
        self._failure: Exception | None = None
        self._accumulator: Accumulator[Batch, Any] | None = None
        with self._guarded():
            self._accumulator = wanted.make()

    @property
    def live(self) -> bool:
        return self._failure is None

    @property
    def differentiates(self) -> bool:
        return self.live and (self.gradients or self.taps_gradients)

    def update(self, batch: Batch, tapping: Tapping) -> None:
        if self._failure is None and self._accumulator is not None:
            with self._guarded():
                own = {name: tapping.of(tap) for name, tap in self.taps.items()}
                self._accumulator.update(replace(batch, taps=own))

    def result(self) -> object:
        if self._failure is None and self._accumulator is not None:
            with self._guarded():
                return self._accumulator.result()
        return self._failure

    def fail_without_gradient(self, failure: Exception) -> None:
        if self.differentiates:
            self._failure = failure

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # foreign code; its failure is its result
            if is_out_of_memory(error):
                raise
            self._failure = error


def take(
    model: Model,
    unit: str,
    split: Split,
    start: int,
    stop: int,
    gradients: bool = False,
    tapping: Tapping | None = None,
    pairs: bool = False,
) -> Batch:
    """Run the model on some examples of a split, with `tapping` listening.

    `gradients` also takes the gradient of their summed loss by the parameters, `pairs` at the outputs that are
    tapped, both in one backward.
    """
    inputs, targets = (moved(each, model.device) for each in split.batch(start, stop))
    size = stop - start
    with torch.set_grad_enabled(gradients or pairs):
        with contextlib.nullcontext() if tapping is None else tapping.listening(size, inputs):
            outputs = model.outputs(inputs)
        losses = model.losses(outputs, targets, inputs, size, unit)
        parameters = model.parameters() if gradients else {}
        edges = tapping.edges() if tapping is not None and pairs else []
        slopes = _slopes(losses, [*parameters.values(), *edges]) if gradients or pairs else []
    outputs = _detached(outputs)
    exact = accumulating(model.device)
    values, weights = (each.detach().to(exact) for each in losses)
    if tapping is not None:
        tapping.take_in(Heard(outputs, weights, slopes[len(parameters) :] if pairs else None))
    found = dict(zip(parameters, slopes, strict=False)) if gradients else None
    return Batch(split.name, start, size, inputs, targets, outputs, values, weights, found)


def _slopes(losses: Losses, places: Sequence[Any]) -> Sequence[torch.Tensor | None]:
    """The gradient of the weighted sum of the losses, wherever it is wanted."""
    total = torch.where(losses.weights != 0, losses.values * losses.weights, 0.0).sum()
    if not total.requires_grad:
        raise _NoGradient(
            "the loss does not depend on any parameter that requires a gradient; "
            "do not detach in the recipe's `forward` or `loss`, nor freeze the whole network in `architecture`."
        )
    return torch.autograd.grad(total, places, allow_unused=True) if places else ()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether smaller batches might help."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


@contextlib.contextmanager
def _spending(module: nn.Module, *, on: bool) -> Iterator[list[int]]:
    """Bytes that innermost modules put out meanwhile: what a backward pass would have to keep, near enough."""
    spent: list[int] = []

    def note(child: nn.Module, inputs: object, output: object) -> None:
        spent.extend(leaf.nbytes for leaf in tensors_in(output))

    innermost = [child for child in module.modules() if on and not list(child.children())]
    hooks = [child.register_forward_hook(note) for child in innermost]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {key: _detached(each) for key, each in value.items()}
    return value
