"""A single safetensors file: a JSON header, then the bytes of every tensor without gaps."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

from sounding.formats.dtypes import ITEM_BYTES, SAFETENSORS, contiguous_stride
from sounding.formats.proof import Format, ImpossibleError, UnfinishedError, megabytes, opened, refuse_holes, size_of
from sounding.formats.sampling import Digest
from sounding.records import Opaque, TensorRef

_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_METADATA = "__metadata__"
_Spans = dict[str, tuple[int, int]]  # start and size of every tensor, from the end of the header


def _claims(path: Path) -> bool:
    return not path.is_dir() and path.suffix == ".safetensors"


def check(path: Path) -> str:
    """Prove header, spans and size."""
    with opened(path) as file:
        header, _ = _header(file)
        spans = _spans(header)
        expected = _data_start(file) + sum(size for _, size in spans.values())
        size = size_of(file)
        if size < expected:
            raise UnfinishedError(f"{megabytes(size)} of {megabytes(expected)} written")
        if size > expected:
            raise ImpossibleError(f"{path.name} has {size - expected} bytes more than its header accounts for")
        refuse_holes(file, path.name)
    return f"safetensors file of {len(spans)} tensors, whole"


def fingerprint(path: Path) -> str:
    """Digest of header, size and samples of every tensor."""
    digest = Digest()
    with opened(path) as file:
        header, raw = _header(file)
        digest.add(raw)
        digest.add(size_of(file))
        start = 8 + len(raw)
        digest.add_samples(file, sorted((start + at, size) for at, size in _spans(header).values()))
    return digest.hex()


def read(path: Path) -> dict[str, object]:
    """Tensors by name; the file's own notes, if any, under `__metadata__`."""
    check(path)
    with opened(path) as file:
        header, raw = _header(file)
    spans = _spans(header)
    tree: dict[str, object] = {}
    for name, (at, size) in spans.items():
        entry = cast(Mapping[str, object], header[name])
        tree[name] = _tensor(str(path), entry, 8 + len(raw) + at, size)
    notes = header.get(_METADATA)
    if isinstance(notes, dict):
        tree[_METADATA] = notes
    return tree


def _tensor(file: str, entry: Mapping[str, object], start: int, size: int) -> TensorRef | Opaque:
    shape = tuple(cast(list[int], entry["shape"]))
    dtype = SAFETENSORS.get(str(entry["dtype"]))
    if dtype is None:
        return Opaque("safetensors.Tensor", {"dtype": entry["dtype"], "shape": shape})
    return TensorRef(file, start, size, dtype, shape, contiguous_stride(shape), 0)


def _data_start(file: BinaryIO) -> int:
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    return 8 + int(length)


def _header(file: BinaryIO) -> tuple[dict[str, object], bytes]:
    file.seek(0)
    head = file.read(8)
    if not head:
        raise UnfinishedError("empty file")
    if len(head) < 8:
        raise UnfinishedError(f"{len(head)} bytes, the header's length needs 8")
    (length,) = struct.unpack("<Q", head)
    if length > _MOST_HEADER_BYTES:
        raise ImpossibleError(f"its header claims {length} bytes; the format allows {_MOST_HEADER_BYTES}")
    raw = file.read(length)
    if not head.strip(b"\0") and not raw:
        raise UnfinishedError("begins with zeros: space reserved, nothing written yet")
    if len(raw) < length:
        raise UnfinishedError(f"{len(raw)} of {length} bytes of the header written")
    if not raw.strip(b"\0"):
        raise UnfinishedError("the header is all zeros: not written yet")
    return _parsed(raw), raw


def _parsed(raw: bytes) -> dict[str, object]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImpossibleError(f"its header is not JSON: {str(error)[:120]}") from error
    if not isinstance(header, dict):
        raise ImpossibleError("its header is not a JSON object")
    return header


def _spans(header: Mapping[str, object]) -> _Spans:
    """Where every tensor lies; contiguous from 0, as the format demands."""
    spans = {name: _span(name, entry) for name, entry in header.items() if name != _METADATA}
    end = 0
    for name, (start, size) in sorted(spans.items(), key=lambda item: item[1]):
        if start != end:
            raise ImpossibleError(f"tensor {name[:80]} begins at byte {start}, expected {end}: spans must touch")
        end = start + size
    return spans


def _span(name: str, entry: object) -> tuple[int, int]:
    if not isinstance(entry, dict):
        raise ImpossibleError(f"the header's entry for {name[:80]} is not an object")
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
    if not (_counts(shape) and _counts(offsets) and len(cast(list[int], offsets)) == 2 and isinstance(dtype, str)):
        raise ImpossibleError(f"the header's entry for {name[:80]} lacks dtype, shape or data_offsets")
    start, end = cast(list[int], offsets)
    size = end - start
    item = ITEM_BYTES.get(SAFETENSORS.get(dtype, ""))
    if size < 0 or (item is not None and math.prod(cast(list[int], shape)) * item != size):
        raise ImpossibleError(f"tensor {name[:80]} of type {dtype} and shape {shape} does not fill its {size} bytes")
    return start, size


def _counts(value: object) -> bool:
    if not isinstance(value, list) or len(value) > 64:  # no tensor has more dimensions
        return False
    return all(type(item) is int and 0 <= item < 1 << 62 for item in value)


FORMAT = Format("safetensors", _claims, check, fingerprint, read, needs_quiet=True, own_names=True)
