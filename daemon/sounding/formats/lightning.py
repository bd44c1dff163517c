"""What tells two checkpoints of Lightning apart: everything but what its callbacks note down as files come and go.

`last.ckpt` is saved for itself, a moment after the checkpoint of the same step, by callbacks that have meanwhile noted
the other file's name.
"""

from collections.abc import Mapping
from typing import BinaryIO

from sounding.formats.archive import Member
from sounding.formats.sampling import Digest
from sounding.records import Opaque, TensorRef

_VERSION = "pytorch-lightning_version"
_NOTES = "callbacks"


def is_lightning(structure: bytes) -> bool:
    """Whether the pickle of an archive is one of Lightning's, as far as its bytes tell."""
    return _VERSION.encode() in structure


def add_content(digest: Digest, file: BinaryIO, tree: object, members: Mapping[str, Member]) -> None:
    """Take in everything but the callbacks' notes, with checksums and samples of the storages that are used."""
    storages: dict[tuple[int, int], int] = {}  # start and size → number
    content = {key: item for key, item in tree.items() if key != _NOTES} if isinstance(tree, Mapping) else tree
    _add(digest, content, storages, {})
    checksums = {(member.start, member.size): member.crc for member in members.values()}
    for place in storages:
        digest.add(f"{place[1]} {checksums.get(place, 0)}")
    digest.add_samples(file, storages)


def _add(digest: Digest, value: object, storages: dict[tuple[int, int], int], seen: dict[int, int]) -> None:
    """Every value once, in the order of the tree; what was met before is told by its number."""
    if isinstance(value, TensorRef):
        place = (value.storage_start, value.storage_bytes)
        number = storages.setdefault(place, len(storages))
        digest.add(f"tensor {number} {value.dtype} {value.shape} {value.stride} {value.offset}")
        return
    inner = _inside(value)
    if inner is None:
        digest.add(f"{type(value).__name__} {value!r}")
        return
    if id(value) in seen:
        digest.add(f"again {seen[id(value)]}")
        return
    seen[id(value)] = len(seen)
    digest.add(f"{type(value).__name__} {len(inner)}")
    for item in inner:
        _add(digest, item, storages, seen)


def _inside(value: object) -> list[object] | None:
    """What a value is made of; None for a plain one."""
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    return [value.class_name, value.state] if isinstance(value, Opaque) else None
