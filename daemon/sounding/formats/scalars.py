"""Single numbers inside checkpoints, whichever way they were stored."""

import math
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from sounding.formats.dtypes import ITEM_BYTES
from sounding.formats.proof import ImpossibleError, opened
from sounding.records import TensorRef

_WIDEST = 1 << 63  # whole numbers beyond 64 bits fit into no result
_STRUCT = {
    "float64": "d", "float32": "f", "float16": "e", "int64": "q", "int32": "i", "int16": "h", "int8": "b",
    "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bool": "?",
}  # fmt: skip


def number(value: object) -> int | float | None:
    """A finite number of 64 bits, plain or a tensor of one element; None for anything else, truth values included."""
    return numbers((value,))[0]


def numbers(values: Iterable[object]) -> list[int | float | None]:
    """The same for many values, opening each file once."""
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        found: list[int | float | None] = []
        for value in values:
            if isinstance(value, TensorRef):
                value = _element(value, files, stack) if math.prod(value.shape) == 1 else None
            found.append(_finite(value))
        return found


def _finite(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return value if -_WIDEST <= value < _WIDEST else None
    return value if math.isfinite(value) else None


def _element(ref: TensorRef, files: dict[str, BinaryIO], stack: ExitStack) -> int | float | bool | None:
    if ref.file not in files:
        files[ref.file] = stack.enter_context(opened(Path(ref.file)))
    size = ITEM_BYTES[ref.dtype]
    file = files[ref.file]
    file.seek(ref.storage_start + ref.offset * size)
    data = file.read(size)
    if len(data) < size:
        raise ImpossibleError(f"{ref.file} has become shorter while it was read")
    if ref.dtype == "bfloat16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    if ref.dtype not in _STRUCT:
        return None
    value: int | float = struct.unpack("<" + _STRUCT[ref.dtype], data)[0]
    return value
