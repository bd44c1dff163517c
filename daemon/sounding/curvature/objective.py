"""The function whose curvature is taken: the mean loss over a fixed subset, as a function of some parameters."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from sounding.batch import moved, tensors_in
from sounding.calling import Called
from sounding.contract import Unavailable
from sounding.curvature.operator import Layout
from sounding.curvature.settling import counting
from sounding.numbers import accumulating
from sounding.probe import Split
from sounding.recipe import Recipe

Statistics: TypeAlias = Literal["eval", "train"]  # what BatchNorm normalises by: running statistics, or its batch's
Leaves: TypeAlias = Sequence[torch.Tensor]

_ROOM = 256 << 20  # bytes of examples kept that a Dataset has made: reading and decoding may outlast a forward


@dataclass(frozen=True)
class Evaluated:
    """What the network made of some examples: `values` and `weights` of the losses, per example or per token."""

    inputs: Any
    targets: Any
    outputs: Any
    values: torch.Tensor
    weights: torch.Tensor

    def counting(self) -> torch.Tensor:
        """The losses, with zeros for those that weigh nothing."""
        return counting(self.values, self.weights)

    @property
    def total(self) -> torch.Tensor:
        """The weighted sum of the losses; what weighs nothing may be anything, NaN included."""
        return torch.where(self.weights != 0, self.values * self.weights, 0.0).sum()

    @property
    def loss(self) -> float:
        """The same, detached and summed in float64."""
        values = self.values.detach().to(accumulating(self.values.device))
        return float(torch.where(self.weights != 0, values * self.weights, 0.0).sum())

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self.weights.detach().to(accumulating(self.weights.device)).sum())


class Objective:
    """Mean loss over `positions` of a split, as a trainer computes it: Σ w·loss / Σ w.

    `parameters` are those it is a function of; everything else is held as it is. All is computed in `least` at least.
    Neither the module's tensors nor its `.grad`, modes or running statistics are touched. With statistics="train"
    BatchNorm normalises by the batch: the losses of one depend on each other then, and batches must not be cut in two.
    """

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe,
        split: Split,
        unit: str,
        positions: Sequence[int],
        parameters: Mapping[str, torch.Tensor],
        statistics: Statistics = "eval",
        least: torch.dtype = torch.float32,
    ) -> None:
        self._least = least
        self._caller = Called(module, recipe.forward)
        self._recipe = recipe
        self._split = split
        self._unit = unit
        self.module = module
        self.positions = positions
        self.statistics = statistics
        self.layout = Layout(tuple(parameters), tuple(tuple(each.shape) for each in parameters.values()))
        self.leaves = tuple(self._raised(each).requires_grad_() for each in parameters.values())
        self.device = self.leaves[0].device
        self.dtype = functools.reduce(torch.promote_types, (each.dtype for each in self.leaves))
        self._made: dict[range, tuple[Any, Any]] = {}
        self._room = _ROOM
        self._held = {name: self._raised(each) for name, each in module.named_parameters() if name not in parameters}

    def evaluate(self, chunk: range, leaves: Leaves | None = None) -> Evaluated:
        """Outputs and losses of the examples at `chunk` of the subset, at `leaves` in place of the parameters."""
        inputs, targets = self._examples(chunk)
        inputs, targets = moved(inputs, self.device), moved(targets, self.device)
        if self._least == torch.float64:
            inputs, targets = _changed((inputs, targets), functools.partial(raised, least=torch.float64))
        given = dict(zip(self.layout.names, self.leaves if leaves is None else leaves, strict=True))
        buffers = {name: self._raised(each).clone() for name, each in self.module.named_buffers()}
        tensors = {f"module.{name}": each for name, each in {**self._held, **buffers, **given}.items()}
        outputs = functional_call(self._caller, tensors, (inputs,))
        return self.judged(outputs, Evaluated(inputs, targets, outputs, outputs, outputs), len(chunk))

    def _examples(self, chunk: range) -> tuple[Any, Any]:
        """Inputs and targets; those that a Dataset has to make are kept, as the same ones are asked for again."""
        if chunk in self._made:
            inputs, targets = self._made[chunk]
            return _changed(inputs, torch.clone), _changed(targets, torch.clone)  # a network may write to its input
        made = self._split.take([self.positions[place] for place in chunk])
        size = sum(each.nbytes for each in tensors_in(made))
        if not isinstance(self._split.data, tuple) and size <= self._room:
            self._made[chunk], self._room = _changed(made, torch.clone), self._room - size
        return made

    def _raised(self, tensor: torch.Tensor) -> torch.Tensor:
        return raised(tensor.detach(), self._least)

    def judged(self, outputs: Any, of: Evaluated, examples: int) -> Evaluated:
        """The losses of other outputs for the same examples."""
        losses = self._recipe.losses(outputs, of.targets, of.inputs, examples, self._unit)
        return Evaluated(of.inputs, of.targets, outputs, losses.values, losses.weights.detach())

    def mean_at(self, leaves: Leaves, chunks: Sequence[range]) -> float:
        """The mean loss at other parameters, summed in float64."""
        loss = weight = 0.0
        with self.prepared(), torch.no_grad():
            for chunk in chunks:
                found = self.evaluate(chunk, leaves)
                loss, weight = loss + found.loss, weight + found.weight
        return loss / weight

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Within, the network computes what can be differentiated twice, in full float32, in the mode that is asked."""
        modes = {
            child: (child.training, getattr(child, "track_running_stats", None)) for child in self.module.modules()
        }
        fast = torch.backends.mha.get_fastpath_enabled()
        by_batch = batch_norms(self.module) if self.statistics == "train" else []
        with sdpa_kernel(SDPBackend.MATH), _exact_kernels(self.module), several_values(by_batch):
            try:
                torch.backends.mha.set_fastpath_enabled(False)
                self._set_modes(by_batch)
                yield
            finally:
                torch.backends.mha.set_fastpath_enabled(fast)
                for child, (training, tracking) in modes.items():
                    child.training = training
                    if tracking is not None:
                        child.track_running_stats = tracking

    def _set_modes(self, by_batch: Sequence[nn.modules.batchnorm._BatchNorm]) -> None:
        self.module.eval()
        for child in by_batch:
            child.training, child.track_running_stats = True, False  # by the batch, and no trace of it kept


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The layers that normalise by their batch in training."""
    return [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def several_values(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Within, layers that normalise by their batch raise Unavailable where it has one value of a channel only."""
    hooks = [each.register_forward_pre_hook(_require_several) for each in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _require_several(norm: nn.Module, given: tuple[Any, ...]) -> None:
    if given and given[0].numel() < 2 * given[0].shape[1]:
        raise Unavailable(
            f"{type(norm).__name__} cannot normalise by a batch with one value per channel, as of a single example: "
            "there is no variance; give the probe's train split, or the batch, more examples"
        )


def raised(tensor: torch.Tensor, least: torch.dtype = torch.float32) -> torch.Tensor:
    """A floating-point tensor of a lesser type in `least`, any other one as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, least)) if tensor.is_floating_point() else tensor


def _changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A nested value with every tensor in it changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _changed(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_changed(each, change) for each in value)
    return value


@contextlib.contextmanager
def _exact_kernels(module: nn.Module) -> Iterator[None]:
    """No TF32; recurrent layers by elementary operations, as cuDNN's cannot be differentiated twice."""
    if not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        yield
        return
    recurrent = any(isinstance(each, nn.RNNBase) for each in module.modules())
    matmul = torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=not recurrent, deterministic=True, allow_tf32=False):
        try:
            torch.backends.cuda.matmul.allow_tf32 = False
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = matmul
