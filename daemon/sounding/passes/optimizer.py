"""The pass `optimizer`: what a checkpoint kept of the optimizer, and what belongs to which weight."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sounding.opening import Opened
from sounding.passes.weights import Weights
from sounding.plugin import Unavailable, shared_pass
from sounding.records import Plain, Stored


@dataclass(frozen=True)
class Group:
    """A parameter group: its settings (`lr`, `weight_decay`, `betas` …) and its parameters' names, where known."""

    settings: Mapping[str, object]
    parameters: tuple[str, ...]

    def number(self, key: str) -> float | None:
        """A setting that is a number, else None."""
        value = self.settings.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Optimizer:
    """An optimizer's state.

    `name` is recognised from what it keeps, not from a class name: sgd, adam, adamw, "adam or adamw" (older torch
    stored both alike), lion, muon, rmsprop, adagrad, adadelta or unknown. `state` maps weight → key → value and is
    empty when nothing says which state belongs to which weight; `mapping` says in words how that was found.
    """

    name: str
    groups: tuple[Group, ...]
    state: Mapping[str, Mapping[str, torch.Tensor | Plain]]
    mapping: str


@shared_pass(version=1)
def optimizer(opened: Opened, weights: Weights) -> Optimizer:
    """The stored optimizer; its state tensors are mapped, not read."""
    tree = opened.optimizer
    if isinstance(tree, Sequence) and not isinstance(tree, str) and len(tree) == 1:
        tree = tree[0]
    if not isinstance(tree, Mapping) or not isinstance(tree.get("param_groups"), Sequence):
        raise Unavailable("the checkpoint holds no optimizer state")
    stored: Mapping[Any, Mapping[str, Any]] = tree.get("state") or {}
    settings = [{key: value for key, value in group.items() if key != "params"} for group in tree["param_groups"]]
    indices = [list(group.get("params") or ()) for group in tree["param_groups"]]
    names, mapping = _names(indices, settings, stored, weights)
    groups = tuple(
        Group(each, tuple(names[index] for index in group if index in names))
        for each, group in zip(settings, indices, strict=True)
    )
    state = {names[index]: _State(opened, values) for index, values in stored.items() if index in names}
    return Optimizer(recognise(stored, settings), groups, state, mapping)


class _State(Mapping[str, Any]):
    """One parameter's state; tensors are mapped when asked for."""

    def __init__(self, opened: Opened, values: Mapping[str, Any]) -> None:
        self._opened = opened
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        return self._opened.tensor(value) if isinstance(value, Stored) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


# Distinguishing marks: keys of the per-parameter state, keys of the parameter group, and the name; first match wins.
_MARKS: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (frozenset({"momentum_buffer"}), frozenset({"ns_steps"}), "muon"),
    (frozenset({"exp_avg", "exp_avg_sq"}), frozenset({"decoupled_weight_decay"}), "adam"),
    (frozenset({"exp_avg", "exp_avg_sq"}), frozenset({"betas"}), "adam or adamw"),
    (frozenset({"exp_avg"}), frozenset({"betas"}), "lion"),
    (frozenset({"square_avg", "acc_delta"}), frozenset({"rho"}), "adadelta"),
    (frozenset({"square_avg"}), frozenset({"alpha"}), "rmsprop"),
    (frozenset({"sum"}), frozenset({"lr_decay"}), "adagrad"),
    (frozenset({"momentum_buffer"}), frozenset({"momentum"}), "sgd"),
    (frozenset(), frozenset({"momentum", "dampening", "nesterov"}), "sgd"),
)


def recognise(state: Mapping[Any, Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> str:
    """An optimizer's name from the keys it keeps per parameter and per group."""
    kept = frozenset(key for values in state.values() for key in values)
    settings = frozenset(key for group in groups for key in group)
    for state_keys, group_keys, name in _MARKS:
        if state_keys <= kept and group_keys <= settings:
            decoupled = name == "adam" and any(group.get("decoupled_weight_decay") for group in groups)
            return "adamw" if decoupled else name
    return "unknown"


def _names(
    indices: Sequence[Sequence[Any]],
    settings: Sequence[Mapping[str, Any]],
    state: Mapping[Any, Mapping[str, Any]],
    weights: Weights,
) -> tuple[dict[Any, str], str]:
    """Parameter index → weight name, where it can be derived and every state tensor's shape agrees."""
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.parameters().items()}
    flat = [index for group in indices for index in group]
    matrices = [name for name in shapes if len(shapes[name]) >= 2]
    vectors = [name for name in shapes if len(shapes[name]) < 2]
    stored = [name for group in settings for name in group.get("param_names") or ()]
    candidates = (
        ([index for index in flat if index in shapes], "by the names it is stored under"),
        (stored, "by the names stored in the parameter groups"),
        (list(shapes), "by the order of the weights"),
        ([*matrices, *vectors], "by order, matrices in the first group and vectors in the second"),
        ([*vectors, *matrices], "by order, vectors in the first group and matrices in the second"),
    )
    for order, words in candidates:
        names = dict(zip(flat, order, strict=False))
        if len(order) == len(flat) and all(
            _fits(state.get(index, {}), shapes.get(name)) for index, name in names.items()
        ):
            return names, words
    return {}, "unknown: no order of the weights fits the shapes of the state"


def _fits(values: Mapping[str, Any], shape: tuple[int, ...] | None) -> bool:
    shapes = {tuple(value.shape) for value in values.values() if hasattr(value, "shape")}
    return shape is not None and shapes <= {shape, (), (1,)}
