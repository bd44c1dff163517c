"""The `.metadata` of torch's distributed checkpoints: which entries there are, and where each of their blocks lies."""

import pickletools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from sounding.formats.pickle_stub import MOST_PICKLE_BYTES, read_pickle
from sounding.formats.proof import ImpossibleError, UnfinishedError, megabytes, opened, size_of
from sounding.records import Opaque

METADATA = ".metadata"
_OF_A_RANK = re.compile(r"__\d+\.metadata")

Key: TypeAlias = tuple[str, tuple[int, ...] | None]  # an entry's name and, for a block of a tensor, where it begins


@dataclass(frozen=True, slots=True)
class Item:
    """Where an entry, saved by torch.save, lies."""

    key: Key
    file: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor of the state dict: its blocks by where they begin."""

    dtype: str
    shape: tuple[int, ...]
    blocks: Mapping[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Index:
    """What `.metadata` says."""

    entries: Mapping[str, Whole | None]  # None for what is no tensor
    items: tuple[Item, ...]  # by file and place
    paths: Mapping[str, Sequence[str | int]]  # entry → the keys that lead to it in the nested state dict

    @property
    def files(self) -> dict[str, int]:
        """The files that are needed, and how long each must be at least."""
        ends: dict[str, int] = {}
        for item in self.items:
            ends[item.file] = max(ends.get(item.file, 0), item.start + item.size)
        return ends


def read_index(path: Path) -> Index:
    """What the directory's `.metadata` says. Raises UnfinishedError while it is missing or cut short."""
    if not (path / METADATA).exists():
        if any(_OF_A_RANK.fullmatch(entry.name) for entry in path.iterdir()):
            raise ImpossibleError("every rank wrote its own .metadata, which is not read; save with collectives")
        raise UnfinishedError(f"no {METADATA} yet, which is written last")
    with opened(path / METADATA) as file:
        if size_of(file) > MOST_PICKLE_BYTES:
            raise ImpossibleError(f"{METADATA} has {megabytes(size_of(file))}, more than is read")
        data = file.read()
    _require_end(data)
    root = _attributes(read_pickle(data, str(path / METADATA), {}), "Metadata")
    entries = {str(name): _entry(str(name), entry) for name, entry in _mapping(root, "state_dict_metadata").items()}
    items = [_item(key, place) for key, place in _mapping(root, "storage_data").items()]
    stored = root.get("planner_data")
    paths = stored if isinstance(stored, Mapping) else {}
    in_order = tuple(sorted(items, key=lambda item: (item.file, item.start)))
    if not in_order:
        raise ImpossibleError(f"{METADATA} names no data")
    return Index(entries, in_order, cast(Mapping[str, Sequence[str | int]], paths))


def _require_end(data: bytes) -> None:
    """No beginning of a pickle reaches its STOP; a copy under way leaves such a beginning."""
    try:
        for _ in pickletools.genops(data):
            pass
    except Exception as error:  # cut or damaged bytes can make the parser raise anything
        raise UnfinishedError(f"{METADATA} is no whole pickle ({len(data)} bytes): {str(error)[:80]}") from error


def _entry(name: str, entry: object) -> Whole | None:
    if isinstance(entry, Opaque) and entry.class_name.endswith(".BytesStorageMetadata"):
        return None
    state = _attributes(entry, "TensorStorageMetadata")
    properties = _attributes(state.get("properties"), "TensorProperties").get("state")
    if not isinstance(properties, tuple) or not properties:
        raise ImpossibleError(f"{METADATA} does not say of what type {name[:80]} is")
    shape = _counts(state.get("size"))
    blocks: dict[tuple[int, ...], tuple[int, ...]] = {}
    for chunk in cast(Sequence[object], state.get("chunks") or ()):
        block = _attributes(chunk, "ChunkStorageMetadata")
        start, sizes = _counts(block.get("offsets")), _counts(block.get("sizes"))
        if 0 not in sizes or 0 in shape:  # ranks without a share save empty blocks, all at one place
            blocks[start] = sizes
    return Whole(str(properties[0]).removeprefix("torch."), shape, blocks)


def _item(key: object, place: object) -> Item:
    index = dict(cast(tuple[tuple[str, object], ...], key)[1:]) if isinstance(key, tuple) else {}
    where = _attributes(place, "_StorageInfo")
    name, offset = index.get("fqn"), index.get("offset")
    file, (start, size) = where.get("relative_path"), _counts((where.get("offset"), where.get("length")))
    if not isinstance(name, str) or not isinstance(file, str):
        raise ImpossibleError(f"{METADATA} has an entry without a name or a file: {str(key)[:80]}")
    if where.get("transform_descriptors"):
        raise ImpossibleError(f"{name[:80]} was written through {where['transform_descriptors']}, which is not read")
    return Item((name, None if offset is None else _counts(offset)), file, start, size)


def _attributes(value: object, kind: str) -> Mapping[str, object]:
    if not isinstance(value, Opaque) or not value.class_name.endswith(f".{kind}"):
        raise ImpossibleError(f"{METADATA} has {str(value)[:60]} where a {kind} should be")
    return value.state if isinstance(value.state, Mapping) else {}


def _mapping(attributes: Mapping[str, object], name: str) -> Mapping[object, object]:
    value = attributes.get(name)
    if not isinstance(value, Mapping):
        raise ImpossibleError(f"{METADATA} has no {name}")
    return value


def _counts(value: object) -> tuple[int, ...]:
    numbers: tuple[object, ...] = tuple(value) if isinstance(value, (tuple, list)) else (None,)
    if len(numbers) > 64 or any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
        raise ImpossibleError(f"{METADATA} has {str(value)[:60]} where sizes should be")
    return cast(tuple[int, ...], numbers)
