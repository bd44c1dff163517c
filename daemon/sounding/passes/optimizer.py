"""The pass `optimizer`: what a checkpoint kept of the optimizers, and what belongs to which weight."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from sounding.contract import Unavailable, shared_pass
from sounding.opening import Opened
from sounding.passes.assignment import Assignment, assign
from sounding.passes.recognition import is_decoupled, recognise
from sounding.passes.weights import Weights
from sounding.records import Plain, Stored

_FIRST_MOMENTS = ("exp_avg", "moment1", "momentum_buffer", "m")
_SECOND_MOMENTS = ("exp_avg_sq", "moment2", "square_avg", "variance", "n", "sum")


@dataclass(frozen=True)
class Group:
    """Parameters of one kind of optimizer and their settings (`lr`, `weight_decay`, `betas` … as stored).

    `kind` is recognised from what is kept: sgd, adam, adamw, "adam or adamw" (older torch stored both alike),
    adafactor, lion, muon, soap, shampoo, adan, sgdw, nadam, radam, adamax, rmsprop, adagrad, adadelta, lamb, lars,
    one of Adam's further kin by its own name, or unknown. `parameters` are the names that are known, maybe not all.
    """

    settings: Mapping[str, object]
    parameters: tuple[str, ...]
    kind: str = "unknown"

    def number(self, key: str) -> float | None:
        """A setting that is a number, else None."""
        value = self.settings.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def learning_rate(self) -> float | None:
        """The stored rate: of the next update, where a scheduler has stepped. None when it is computed elsewhere."""
        return self.number("lr")

    @property
    def weight_decay(self) -> float:
        """λ; 0 where none is set."""
        return self.number("weight_decay") or self.number("wd") or 0.0

    @property
    def decoupled(self) -> bool | None:
        """Whether weight decay acts on the weights alone, not through the gradient; None: cannot be known."""
        return is_decoupled(self.kind, self.settings)

    @property
    def betas(self) -> tuple[float, ...]:
        """Decay rates of the moments; empty where there are none."""
        own = self.settings.get("adamw_betas") if self.kind == "adamw" else None
        values = own or self.settings.get("betas")
        return tuple(float(each) for each in values) if isinstance(values, Sequence) else ()

    @property
    def epsilon(self) -> float | None:
        """What is added to the root of the second moment."""
        return next((found for key in ("eps", "epsilon", "adamw_eps") if (found := self.number(key)) is not None), None)

    @property
    def momentum(self) -> float:
        """μ of SGD, Muon and their kind; 0 without."""
        return self.number("momentum") or 0.0


@dataclass(frozen=True)
class Optimizer:
    """The optimizers' state.

    `name` is the groups' kind, or several joined by " + ". `state` maps weight → key → value, only for weights of which
    it is certain; `raw` has everything there is by the stored index. Tensors are mapped when they are asked for, and
    not a byte of them is read before. `mapping` says in words how indices were matched with weights.
    """

    name: str
    groups: tuple[Group, ...]
    state: Mapping[str, Mapping[str, Any]]
    mapping: str
    raw: Mapping[Any, Mapping[str, Any]]

    @cached_property
    def _by_name(self) -> Mapping[str, Group]:
        return {name: group for group in self.groups for name in group.parameters}

    def group_of(self, name: str) -> Group | None:
        """The settings under which a weight is trained; None where that is not known."""
        return self._by_name.get(name)

    def first_moment(self, name: str) -> torch.Tensor | None:
        """The running mean of a weight's gradients (momentum), of its shape; None where there is none."""
        return self._moment(name, _FIRST_MOMENTS)

    def second_moment(self, name: str) -> torch.Tensor | None:
        """The running mean of squared gradients; None without, or where only its factors are kept."""
        return self._moment(name, _SECOND_MOMENTS)

    def _moment(self, name: str, keys: Sequence[str]) -> torch.Tensor | None:
        values = self.state.get(name, {})
        found = next((values[key] for key in keys if key in values), None)
        return found if isinstance(found, torch.Tensor) else None


@shared_pass(version=3)
def optimizer(opened: Opened, weights: Weights) -> Optimizer:
    """The stored optimizers; their state tensors are mapped, not read."""
    trees = [each for each in opened.optimizers if isinstance(each, Mapping)]
    if not trees:
        raise Unavailable("the checkpoint holds no optimizer state")
    several = len(trees) > 1
    groups: list[Mapping[str, Any]] = []
    states: dict[Any, Mapping[str, Any]] = {}
    for number, tree in enumerate(trees):
        for group in tree["param_groups"]:
            indices = [(number, each) if several else each for each in group.get("params") or ()]
            groups.append({**_read_scalars(opened, group), "params": indices})
        for index, values in (tree.get("state") or {}).items():
            if isinstance(values, Mapping):
                states[(number, index) if several else index] = values
    found = _assigned(groups, states, weights)
    raw = {index: _State(opened, values) for index, values in states.items()}
    state = {name: raw[index] for index, name in found.names.items() if index in raw}
    kinds = [
        each
        for group, members in zip(groups, found.members, strict=True)
        for each in _split(group, members, found, states)
    ]
    return Optimizer(" + ".join(dict.fromkeys(each.kind for each in kinds)), tuple(kinds), state, found.words, raw)


class _State(Mapping[str, Any]):
    """One parameter's state; tensors are mapped when asked for."""

    def __init__(self, opened: Opened, values: Mapping[str, Any]) -> None:
        self._opened = opened
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._mapped(self._values[key])

    def _mapped(self, value: Any) -> Any:
        if isinstance(value, Stored):
            return self._opened.tensor(value)
        if isinstance(value, list | tuple):
            return [self._mapped(each) for each in value]
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values  # the inherited one would map the tensor to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _read_scalars(opened: Opened, group: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with numbers that were stored as tensors read: torch does that to `lr` when it compiles."""

    def plain(value: Any) -> Any:
        if isinstance(value, Stored) and math.prod(value.shape) == 1:
            return opened.tensor(value).item()
        return value

    return {key: plain(value) for key, value in group.items() if key != "params"}


def _assigned(
    groups: Sequence[Mapping[str, Any]], states: Mapping[Any, Mapping[str, Any]], weights: Weights
) -> Assignment:
    shapes = {name: weights.shape(name) for name in weights.parameters()}
    stored = [name for group in groups for name in group.get("param_names") or ()]
    return assign([group["params"] for group in groups], states, stored, shapes, weights.ordered)


def _split(
    group: Mapping[str, Any], members: Sequence[str], found: Assignment, states: Mapping[Any, Mapping[str, Any]]
) -> list[Group]:
    """A stored group as one for each kind of optimizer in it: some Muons treat vectors with an AdamW of their own."""
    settings: dict[str, Plain | Any] = {key: value for key, value in group.items() if key != "params"}
    everything = {key for index in group["params"] for key in states.get(index, {})}
    index_of = {found.names[index]: index for index in group["params"] if index in found.names}
    kinds: dict[str, list[str]] = {}
    for name in members:
        kept = states.get(index_of.get(name)) or everything
        kinds.setdefault(recognise(kept, settings), []).append(name)
    if not kinds:
        kinds = {recognise(everything, settings): []}
    return [Group(settings, tuple(names), kind) for kind, names in kinds.items()]
