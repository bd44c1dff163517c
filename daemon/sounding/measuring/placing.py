"""Which modules of a network a tap is about."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from sounding.contract import Unavailable

_LISTS = (nn.ModuleList, nn.ModuleDict)  # never run themselves
_MOST_OF_IT = 0.9  # share of the weights that makes a child a wrapper of the network itself
_NAMED = 6  # modules that a message names


def is_exact(pattern: str) -> bool:
    """Whether a pattern is the name of one module."""
    return not any(mark in pattern for mark in "*?[")


def matching(module: nn.Module, pattern: str, kind: type[nn.Module] = nn.Module) -> dict[str, nn.Module]:
    """Modules whose names match, in the network's order. Raises Unavailable, naming some that there are, at none."""
    known = {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, kind) and not isinstance(child, _LISTS) and (name or pattern == "")
    }
    found = {name: child for name, child in known.items() if fnmatchcase(name, pattern)}
    if not found:
        what = "module" if kind is nn.Module else kind.__name__
        shown = ", ".join(list(known)[:_NAMED]) + (", …" if len(known) > _NAMED else "")
        raise Unavailable(f"no {what} of the network is named `{pattern}`; there are: {shown or 'none'}")
    return found


def blocks(module: nn.Module, head: str | None = None) -> dict[str, nn.Module]:
    """The network's top-level blocks with weights, embeddings and the head left out.

    What only wraps nearly all of the network is looked into, and so are lists.
    """
    return {name: child for name, child in _parts(module, "") if name != head and not isinstance(child, nn.Embedding)}


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    whole = _size(module)
    for name, child in module.named_children():
        size = _size(child)
        wraps = size >= _MOST_OF_IT * whole and any(True for _ in child.children())
        if isinstance(child, _LISTS) or (wraps and size):
            yield from _parts(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield prefix + name, child


def _size(module: nn.Module) -> int:
    """Weights, those of embeddings not counted, which may be most of a small network and are no block."""
    embedded = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}
    return sum(each.numel() for each in module.parameters() if id(each) not in embedded)
