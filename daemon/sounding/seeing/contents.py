"""What a checkpoint's tree holds: its networks, its optimizer, and how far training had come. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sounding.records import Opaque, Progress, Stored
from sounding.seeing.networks import find_networks
from sounding.seeing.progress import find_progress

_OPTIMIZER_KEYS = (
    "optimizer",
    "optimizer_state_dict",
    "optimizer_states",
    "optimizer_state",
    "optimizers",
    "optim",
    "opt",
)


@dataclass(frozen=True, slots=True)
class Contents:
    """The parts of a checkpoint that have a meaning."""

    networks: Mapping[str, Mapping[str, Stored]]  # by the key they were found under ("" is the top), default first
    left_out: Mapping[str, Mapping[str, str]]  # of the same networks: why an entry was left out, by its name
    wrappers: tuple[str, ...]  # what was unwrapped, in words
    optimizer: object | None  # an optimizer's state dict, with tensors as leaves
    progress: Progress


def contents_of(tree: object, *, own_names: bool = False) -> Contents:
    """Read the parts of a checkpoint off its tree; `own_names` as its format says."""
    found = find_networks(tree, own_names=own_names)
    optimizer = find_optimizer(tree)
    return Contents(found.tensors, found.left_out, found.wrappers, optimizer, find_progress(tree, optimizer))


def find_optimizer(tree: object) -> object | None:
    """The optimizer's state dict (the first one's, if there are several), None without."""
    if not isinstance(tree, Mapping):
        return None
    for place in (tree, *(item for item in tree.values() if isinstance(item, Mapping))):
        for key in _OPTIMIZER_KEYS:
            found = _state_dict(place.get(key))
            if found is not None:
                return found
    return None


def _state_dict(value: object) -> object | None:
    if isinstance(value, Opaque):
        value = value.state
    if isinstance(value, Mapping):
        return value if "param_groups" in value else None
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return next((found for item in value if (found := _state_dict(item)) is not None), None)
    return None
