"""What a checkpoint's tree holds: its networks, its optimizers, and how far training had come. No torch."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sounding.records import Opaque, Progress, Stored
from sounding.seeing.flattened import nested_states
from sounding.seeing.networks import find_networks
from sounding.seeing.progress import find_progress

# "optimizer", "optimizer_state_dict", "optimizer_states", "optim", "optimizers", "optimizer1", "optimizer_muon" …
_OPTIMIZER_KEY = re.compile(r"(optimizers?|optim|opt)(_state(s|_dict)?|_?\d+|_[a-z]+)*")


@dataclass(frozen=True, slots=True)
class Contents:
    """The parts of a checkpoint that have a meaning."""

    networks: Mapping[str, Mapping[str, Stored]]  # by the key they were found under ("" is the top), default first
    left_out: Mapping[str, Mapping[str, str]]  # of the same networks: why an entry was left out, by its name
    wrappers: tuple[str, ...]  # what was unwrapped, in words
    optimizers: tuple[object, ...]  # their state dicts, with tensors as leaves
    progress: Progress


def contents_of(tree: object, *, own_names: bool = False) -> Contents:
    """Read the parts of a checkpoint off its tree; `own_names` as its format says."""
    found = find_networks(tree, own_names=own_names)
    optimizers = find_optimizers(tree)
    progress = find_progress(tree, next(iter(optimizers), None))
    return Contents(found.tensors, found.left_out, found.wrappers, optimizers, progress)


def find_optimizers(tree: object) -> tuple[object, ...]:
    """The optimizers' state dicts, in the order of the file."""
    if not isinstance(tree, Mapping):
        return ()
    for place in (tree, *(item for item in tree.values() if isinstance(item, Mapping))):
        keys = [key for key in place if isinstance(key, str) and _OPTIMIZER_KEY.fullmatch(key)]
        found = tuple(each for key in keys for each in _state_dicts(place[key]))
        if found:
            return found
    return ()


def _state_dicts(value: object) -> Iterator[object]:
    if isinstance(value, Opaque):
        value = value.state
    if isinstance(value, Mapping):
        states = value if "param_groups" in value else nested_states(value)
        if states is not None:
            yield states
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for item in value:
            yield from _state_dicts(item)
