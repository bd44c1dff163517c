"""Which examples curvature is taken over, and which parameters it is taken with respect to."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sounding.contract import Unavailable
from sounding.digest import digest_of
from sounding.errors import SoundingError
from sounding.probe import Probe

BATCH_SIZES = ("batch_size", "train_batch_size", "per_device_train_batch_size", "batch", "bs")
ALL, TRAINABLE = "all", "trainable"


@dataclass(frozen=True)
class Subset:
    """Examples of one split, in an order that depends on their ids alone; `hash` covers what they are, too."""

    split: str
    positions: Sequence[int]
    hash: str


def subset_of(probe: Probe, split: str, examples: int) -> Subset:
    """At most so many examples: those whose ids hash lowest, in the order of these hashes.

    Sorted probes (by class, by length) are thus mixed, and a larger subset holds the smaller ones.
    """
    ids = probe.ids_of(split)
    order = sorted(range(len(ids)), key=lambda place: (_digest(ids[place]), place))
    positions = order[:examples]
    return Subset(split, positions, digest_of([probe.inputs_hash, probe.targets_hash, split, positions])[:16])


def chosen_parameters(module: nn.Module, wanted: str) -> dict[str, torch.Tensor]:
    """The parameters that are "trainable", "all" of them, or those that a pattern matches.

    Tied parameters are there once. Raises Unavailable where nothing is trainable, SoundingError for a wrong pattern.
    """
    named = {name: each for name, each in module.named_parameters() if each.is_floating_point()}
    if wanted == TRAINABLE:
        named = {name: each for name, each in named.items() if each.requires_grad}
        if not named:
            raise Unavailable("no parameter of the network requires a gradient, so it has no curvature to speak of")
    elif wanted != ALL:
        named = _matching(named, wanted)
    return {name: each.detach() for name, each in named.items()}


def batch_size_of(attributes: Mapping[str, Any], given: int) -> tuple[int, str]:
    """Size of a training batch and where it is known from; 0 where it is not known."""
    if given:
        return given, "the setting `batch_size`"
    for key in BATCH_SIZES:
        value = attributes.get(key)
        if isinstance(value, int | float) and value >= 1:
            return int(value), f"the run's attribute `{key}`"
    return 0, ""


def _matching(named: Mapping[str, nn.Parameter], pattern: str) -> dict[str, nn.Parameter]:
    try:
        found = {name: each for name, each in named.items() if re.search(pattern, name)}
    except re.error as error:
        raise SoundingError(f"[passes.curvature] parameters: {pattern!r} is no regular expression: {error}.") from None
    if not found:
        raise SoundingError(
            f"[passes.curvature] parameters: no parameter's name matches {pattern!r}; there are: "
            f'{", ".join(list(named)[:6])} …; or write "trainable" or "all".'
        )
    return found


def _digest(identity: object) -> bytes:
    return hashlib.blake2b(str(identity).encode(), digest_size=8).digest()
