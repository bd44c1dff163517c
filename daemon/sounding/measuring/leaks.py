"""What a plugin must leave as it found it: weights, the model's parameters, modes, gradients and hooks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sounding.passes import Gradients, Head, Model, Other, Representations, Weights


@dataclass(frozen=True)
class _State:
    """A module's state that is cheap to compare: tensors by their version counters, never by their bytes."""

    versions: dict[str, int]
    modes: dict[str, bool]
    gradients: frozenset[str]
    frozen: frozenset[str]
    hooks: int


@dataclass(frozen=True)
class Watch:
    """Remembers the state of what a plugin was given. In-place writes show in version counters, at no cost."""

    weights: tuple[Weights, ...]
    modules: tuple[tuple[nn.Module, _State], ...]

    @classmethod
    def over(cls, arguments: Iterable[Any]) -> "Watch":
        """Watch every `Weights` and `Model` among a plugin's arguments, `other`'s included."""
        given = list(arguments)
        for each in list(given):
            if isinstance(each, Other):
                given.extend(vars(each)["_passes"].values())
        modules = tuple((each.module, _state(each.module)) for each in given if isinstance(each, Model))
        return cls(tuple(each for each in given if isinstance(each, Weights)), modules)

    def leaks(self) -> list[str]:
        """What changed meanwhile, in words."""
        found = [
            f"wrote to the weights in place ({', '.join(names[:3])})"
            for each in self.weights
            if (names := each.changed())
        ]
        for module, before in self.modules:
            found += _differences(before, _state(module))
        return found


def _differences(before: _State, after: _State) -> list[str]:
    found = []
    if before.versions != after.versions:
        changed = [name for name, version in after.versions.items() if before.versions.get(name) != version]
        found.append(f"changed the model's tensors ({', '.join(changed[:3])})")
    if before.modes != after.modes:
        found.append("left the model in another mode (train or eval)")
    if before.gradients != after.gradients:
        found.append("left gradients in `.grad` of the model's parameters")
    if before.frozen != after.frozen:
        found.append("changed `requires_grad` of the model's parameters")
    if before.hooks != after.hooks:
        found.append("left hooks on the model")
    return found


def _state(module: nn.Module) -> _State:
    named = dict(module.named_parameters())
    tensors: dict[str, torch.Tensor] = {**named, **dict(module.named_buffers())}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return _State(
        {name: each._version for name, each in tensors.items()},
        {name: each.training for name, each in module.named_modules()},
        frozenset(name for name, each in named.items() if each.grad is not None),
        frozenset(name for name, each in named.items() if not each.requires_grad),
        sum(len(getattr(each, kind)) for each in module.modules() for kind in hooks),
    )


def given_tensors(arguments: Iterable[Any]) -> list[object]:
    """Every tensor among a plugin's arguments, in order: those of passes that are mappings, and the model's state."""
    found: list[object] = []
    for each in arguments:
        if isinstance(each, Other):
            found.extend(given_tensors(vars(each)["_passes"].values()))
        elif isinstance(each, Model):
            found.extend(each.module.state_dict().values())
        elif isinstance(each, Weights | Gradients | Representations):
            found.extend(each.values())
        elif isinstance(each, Head):
            found.extend((each.weight, each.bias))
    return found
