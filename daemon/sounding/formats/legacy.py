"""What torch.save wrote before its zip: pickles one after the other, then the bytes of each storage."""

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sounding.formats.dtypes import ITEM_BYTES
from sounding.formats.pickle_stub import MOST_PICKLE_BYTES, read_pickle, read_pickle_by
from sounding.formats.proof import (
    Format,
    ImpossibleError,
    UnfinishedError,
    first_bytes,
    megabytes,
    opened,
    refuse_holes,
    size_of,
)
from sounding.formats.sampling import Digest
from sounding.formats.stubs import Storage
from sounding.formats.window import window

_MAGIC = 0x1950A86A20F9469CFC6C  # torch's own number
_HEADS = tuple(pickle.dumps(_MAGIC, protocol) for protocol in (2, 3, 4, 5))
_VERSION = 1001
_PICKLES = ("magic number", "version", "system", "structure", "storage keys")
_COUNT_BYTES = 8


@dataclass(frozen=True, slots=True)
class _Layout:
    structure: bytes
    keys: tuple[str, ...]  # of the storages, in the order of the file
    data_start: int


def _claims(path: Path) -> bool:
    if path.is_dir():
        return False
    found = first_bytes(path, max(map(len, _HEADS)))
    return len(found) > 0 and any(found.startswith(head) or head.startswith(found) for head in _HEADS)


def check(path: Path) -> str:
    """Prove all pickles readable and the file exactly as long as its storages need."""
    with opened(path) as file:
        refuse_holes(file, path.name)
        layout = _layout(file)
        _storages(file, path, layout)
    return f"legacy torch file of {len(layout.keys)} storages, whole"


def fingerprint(path: Path) -> str:
    """Digest of size, structure and samples of every storage."""
    digest = Digest()
    with opened(path) as file:
        layout = _layout(file)
        storages = _storages(file, path, layout)
        digest.add(size_of(file))
        digest.add(layout.structure)
        digest.add_samples(file, [(storages[key].start, storages[key].size) for key in layout.keys])
    return digest.hex()


def read(path: Path) -> object:
    """The saved object, with TensorRefs in place of tensors."""
    with opened(path) as file:
        layout = _layout(file)
        storages = _storages(file, path, layout)
    return read_pickle_by(layout.structure, _located(storages))


def _located(storages: Mapping[str, Storage]) -> Callable[[str, str, int], Storage]:
    def locate(dtype: str, key: str, count: int) -> Storage:
        storage = storages[key]
        if count * ITEM_BYTES[dtype] > storage.size:
            raise ImpossibleError(f"storage {key[:40]} should hold {count} elements, but has {storage.size} bytes")
        return Storage(storage.file, storage.start, storage.size, dtype)

    return locate


def _layout(file: BinaryIO) -> _Layout:
    """The pickles at the beginning, found by their ends."""
    size = size_of(file)
    stream = window(file, 0, min(size, MOST_PICKLE_BYTES))
    parts: list[bytes] = []
    for name in _PICKLES:
        start = stream.tell()
        try:
            for _ in pickletools.genops(stream):
                pass
        except Exception as error:  # cut or damaged bytes can make the parser raise anything
            if size > MOST_PICKLE_BYTES:
                raise ImpossibleError(f"no end of its pickles in the first {megabytes(MOST_PICKLE_BYTES)}") from error
            raise UnfinishedError(f"the pickle of the {name} has no end yet ({megabytes(size)} so far)") from error
        end = stream.tell()
        stream.seek(start)
        parts.append(stream.read(end - start))
    _, version, system, keys = (read_pickle(parts[place], "", {}) for place in (0, 1, 2, 4))
    if version != _VERSION:
        raise ImpossibleError(f"a legacy torch file of version {str(version)[:20]}, expected {_VERSION}")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ImpossibleError("not written on a little-endian machine")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise ImpossibleError("its storage keys are not a list of names")
    return _Layout(parts[3], tuple(keys), stream.tell())


def _storages(file: BinaryIO, path: Path, layout: _Layout) -> dict[str, Storage]:
    """Where every storage lies; the last one ends the file."""
    sizes = _sizes(layout)
    if set(sizes) != set(layout.keys):
        raise ImpossibleError("the structure refers to other storages than the file lists")
    total = size_of(file)
    found: dict[str, Storage] = {}
    at = layout.data_start
    for key in layout.keys:
        count, item = sizes[key]
        file.seek(at)
        head = file.read(_COUNT_BYTES)
        if len(head) == _COUNT_BYTES and struct.unpack("<q", head)[0] != count:
            raise ImpossibleError(f"storage {key[:40]} has {struct.unpack('<q', head)[0]} elements, expected {count}")
        found[key] = Storage(str(path), at + _COUNT_BYTES, count * item, "uint8")
        at += _COUNT_BYTES + count * item
    if at > total:
        raise UnfinishedError(f"{megabytes(total)} of {megabytes(at)} written")
    if at < total:
        raise ImpossibleError(f"{path.name} has {total - at} bytes more than its storages need")
    return found


def _sizes(layout: _Layout) -> dict[str, tuple[int, int]]:
    """Elements and bytes of each by storage key, as the structure first names it."""
    sizes: dict[str, tuple[int, int]] = {}

    def note(dtype: str, key: str, count: int) -> Storage:
        sizes.setdefault(key, (count, ITEM_BYTES[dtype]))
        return Storage("", 0, count * ITEM_BYTES[dtype], dtype)

    read_pickle_by(layout.structure, note)
    return sizes


FORMAT = Format("legacy torch file", _claims, check, fingerprint, read, needs_quiet=True)
