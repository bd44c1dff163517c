"""A directory of torch.distributed.checkpoint: shards of many ranks, and a `.metadata` that says what lies where."""

import pickletools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sounding.formats import torch_zip
from sounding.formats.dtypes import ITEM_BYTES
from sounding.formats.nesting import nested
from sounding.formats.pickle_stub import MOST_PICKLE_BYTES, read_pickle
from sounding.formats.pieces import put_together
from sounding.formats.proof import (
    Format,
    ImpossibleError,
    UnfinishedError,
    contained,
    megabytes,
    opened,
    refuse_holes,
    size_of,
)
from sounding.formats.sampling import Digest
from sounding.records import Opaque, Piece, Stored, TensorRef

_METADATA = ".metadata"
_OF_A_RANK = re.compile(r"__\d+\.metadata")
_SAME_TIME_NS = 2_000_000_000  # clocks of hosts that write into one directory differ

_Key = tuple[str, tuple[int, ...] | None]  # an entry's name and, for a block of a tensor, where the block begins


@dataclass(frozen=True, slots=True)
class _Item:
    """Where an entry, saved by torch.save, lies."""

    key: _Key
    file: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Whole:
    """A tensor of the state dict: its blocks by where they begin."""

    dtype: str
    shape: tuple[int, ...]
    blocks: Mapping[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Index:
    """What `.metadata` says."""

    entries: Mapping[str, _Whole | None]  # None for what is no tensor
    items: tuple[_Item, ...]  # by file and place
    paths: Mapping[str, Sequence[str | int]]  # entry → the keys that lead to it in the nested state dict

    @property
    def files(self) -> dict[str, int]:
        """The files that are needed, and how long each must be at least."""
        ends: dict[str, int] = {}
        for item in self.items:
            ends[item.file] = max(ends.get(item.file, 0), item.start + item.size)
        return ends


def _claims(path: Path) -> bool:
    if not path.is_dir():
        return False
    return (path / _METADATA).exists() or any(path.glob("*.distcp")) or any(path.glob("__*.metadata"))


def check(path: Path) -> str:
    """Prove every file long enough, every entry in it whole, and every tensor covered by its blocks."""
    index = _index(path)
    _values(path, index)
    files = len(index.files)
    return f"{files} file{'s' if files != 1 else ''} of {len(index.entries)} entries, whole"


def needs_quiet(path: Path) -> bool:
    """Whether some data was written after `.metadata`, which the writer finishes last."""
    written = (path / _METADATA).stat().st_mtime_ns
    return any(contained(path, name).stat().st_mtime_ns > written for name in _index(path).files)


def fingerprint(path: Path) -> str:
    """Digest of the entries' names and places, and of samples of each."""
    digest = Digest()
    index = _index(path)
    for name in sorted(index.files):
        items = [item for item in index.items if item.file == name]
        for item in items:
            digest.add(f"{item.key} {item.start} {item.size}")
        with opened(contained(path, name)) as file:
            digest.add_samples(file, [(item.start, item.size) for item in items])
    return digest.hex()


def read(path: Path) -> object:
    """The state dict as it was before it was flattened, with TensorRefs and Pieces in place of tensors."""
    index = _index(path)
    return nested(_values(path, index), index.paths)


def _values(path: Path, index: _Index) -> dict[str, object]:
    """What every entry holds, after proving that it is there."""
    _require_files(path, index.files)
    found: dict[_Key, object] = {}
    try:
        for name in index.files:
            with opened(contained(path, name)) as file:
                refuse_holes(file, name)
                for item in (item for item in index.items if item.file == name):
                    found[item.key] = torch_zip.read_within(file, contained(path, name), item.start, item.size)
        return {name: _value(name, whole, found) for name, whole in index.entries.items()}
    except ImpossibleError as error:
        if _newer(path, index.files, 0):
            raise UnfinishedError(f"files are newer than {_METADATA} and do not fit it: saved anew? {error}") from error
        raise


def _value(name: str, whole: _Whole | None, found: Mapping[_Key, object]) -> object:
    if whole is None:
        if (name, None) not in found:
            raise ImpossibleError(f"{_METADATA} does not say where {name[:80]} lies")
        return found[name, None]
    pieces: list[Piece] = []
    for start, sizes in whole.blocks.items():
        ref = found.get((name, start))
        if isinstance(ref, Opaque):
            return ref
        if not isinstance(ref, TensorRef) or whole.dtype not in ITEM_BYTES:
            return Opaque("torch.Tensor", {"dtype": whole.dtype, "shape": whole.shape})
        if ref.shape != sizes:
            raise ImpossibleError(f"a block of {name[:80]} has shape {list(ref.shape)}, {_METADATA} says {list(sizes)}")
        pieces.append(Piece(start, ref))
    return _whole(name, whole, pieces)


def _whole(name: str, whole: _Whole, pieces: Sequence[Piece]) -> Stored:
    try:
        return put_together(whole.dtype, whole.shape, pieces)
    except ImpossibleError as error:
        raise ImpossibleError(f"{name[:80]}: {error}") from error


def _require_files(path: Path, files: Mapping[str, int]) -> None:
    present = {name: contained(path, name) for name in files if contained(path, name).exists()}
    if len(present) < len(files):
        raise UnfinishedError(f"{len(present)} of {len(files)} files")
    for name, needed in files.items():
        with opened(present[name]) as file:
            if size_of(file) < needed:
                raise UnfinishedError(f"{name}: {megabytes(size_of(file))} of {megabytes(needed)} written")
    newer = _newer(path, files, _SAME_TIME_NS)
    if newer and len(newer) < len(files):
        raise UnfinishedError(
            f"{len(newer)} of {len(files)} files are newer than {_METADATA}: being saved anew "
            "(a copy that keeps no times looks the same; copy it with `cp -p`)"
        )


def _newer(path: Path, files: Mapping[str, int], tolerance: int) -> list[str]:
    written = (path / _METADATA).stat().st_mtime_ns + tolerance
    return [name for name in files if contained(path, name).stat().st_mtime_ns > written]


def _index(path: Path) -> _Index:
    if not (path / _METADATA).exists():
        if any(_OF_A_RANK.fullmatch(entry.name) for entry in path.iterdir()):
            raise ImpossibleError("every rank wrote its own .metadata, which is not read; save with collectives")
        raise UnfinishedError(f"no {_METADATA} yet, which is written last")
    with opened(path / _METADATA) as file:
        if size_of(file) > MOST_PICKLE_BYTES:
            raise ImpossibleError(f"{_METADATA} has {megabytes(size_of(file))}, more than is read")
        data = file.read()
    _require_end(data)
    root = _attributes(read_pickle(data, str(path / _METADATA), {}), "Metadata")
    entries = {str(name): _entry(str(name), entry) for name, entry in _mapping(root, "state_dict_metadata").items()}
    items = [_item(key, place) for key, place in _mapping(root, "storage_data").items()]
    stored = root.get("planner_data")
    paths = stored if isinstance(stored, Mapping) else {}
    in_order = tuple(sorted(items, key=lambda item: (item.file, item.start)))
    if not in_order:
        raise ImpossibleError(f"{_METADATA} names no data")
    return _Index(entries, in_order, cast(Mapping[str, Sequence[str | int]], paths))


def _require_end(data: bytes) -> None:
    """No beginning of a pickle reaches its STOP; a copy under way leaves such a beginning."""
    try:
        for _ in pickletools.genops(data):
            pass
    except Exception as error:  # cut or damaged bytes can make the parser raise anything
        raise UnfinishedError(f"{_METADATA} is no whole pickle ({len(data)} bytes): {str(error)[:80]}") from error


def _entry(name: str, entry: object) -> _Whole | None:
    if isinstance(entry, Opaque) and entry.class_name.endswith(".BytesStorageMetadata"):
        return None
    state = _attributes(entry, "TensorStorageMetadata")
    properties = _attributes(state.get("properties"), "TensorProperties").get("state")
    if not isinstance(properties, tuple) or not properties:
        raise ImpossibleError(f"{_METADATA} does not say of what type {name[:80]} is")
    shape = _counts(state.get("size"))
    blocks: dict[tuple[int, ...], tuple[int, ...]] = {}
    for chunk in cast(Sequence[object], state.get("chunks") or ()):
        block = _attributes(chunk, "ChunkStorageMetadata")
        start, sizes = _counts(block.get("offsets")), _counts(block.get("sizes"))
        if 0 not in sizes or 0 in shape:  # ranks without a share save empty blocks, all at one place
            blocks[start] = sizes
    return _Whole(str(properties[0]).removeprefix("torch."), shape, blocks)


def _item(key: object, place: object) -> _Item:
    index = dict(cast(tuple[tuple[str, object], ...], key)[1:]) if isinstance(key, tuple) else {}
    where = _attributes(place, "_StorageInfo")
    name, offset = index.get("fqn"), index.get("offset")
    file, (start, size) = where.get("relative_path"), _counts((where.get("offset"), where.get("length")))
    if not isinstance(name, str) or not isinstance(file, str):
        raise ImpossibleError(f"{_METADATA} has an entry without a name or a file: {str(key)[:80]}")
    if where.get("transform_descriptors"):
        raise ImpossibleError(f"{name[:80]} was written through {where['transform_descriptors']}, which is not read")
    return _Item((name, None if offset is None else _counts(offset)), file, start, size)


def _attributes(value: object, kind: str) -> Mapping[str, object]:
    if not isinstance(value, Opaque) or not value.class_name.endswith(f".{kind}"):
        raise ImpossibleError(f"{_METADATA} has {str(value)[:60]} where a {kind} should be")
    return value.state if isinstance(value.state, Mapping) else {}


def _mapping(attributes: Mapping[str, object], name: str) -> Mapping[object, object]:
    value = attributes.get(name)
    if not isinstance(value, Mapping):
        raise ImpossibleError(f"{_METADATA} has no {name}")
    return value


def _counts(value: object) -> tuple[int, ...]:
    numbers: tuple[object, ...] = tuple(value) if isinstance(value, (tuple, list)) else (None,)
    if len(numbers) > 64 or any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
        raise ImpossibleError(f"{_METADATA} has {str(value)[:60]} where sizes should be")
    return cast(tuple[int, ...], numbers)


FORMAT = Format("torch DCP directory", _claims, check, fingerprint, read, needs_quiet)
