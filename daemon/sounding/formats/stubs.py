"""What stands in for the classes and functions that a pickle names: plain values and inert records.

Nothing is imported on behalf of a pickle. Every stand-in that a pickle can call is a sealed type (a pickle cannot
change it), and every instance that a pickle can reach swallows or refuses state, so that what was checked when it
was made stays true.
"""

import struct
from typing import Any, NoReturn

from sounding.formats.dtypes import ITEM_BYTES, extent
from sounding.formats.proof import ImpossibleError
from sounding.records import TensorRef

_LARGEST_OVERLAP = 1 << 24  # elements that a view may show of a smaller storage (expanded buffers do)
_NUMPY_STRUCT = {
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?",
}  # fmt: skip


class Sealed(type):
    """The type of all stand-ins for globals: their attributes cannot be set by a pickle."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        """Refuse."""
        raise ImpossibleError(f"the pickle tries to change {cls.__name__}")


class Foreign:
    """An instance of a class that is not ours to import, or the result of a function that is not ours to call."""

    __slots__ = ("args", "class_name", "entries", "state", "values")

    def __init__(self, class_name: str, args: tuple[object, ...]) -> None:
        self.class_name = class_name
        self.args = args
        self.state: object = None
        self.entries: dict[object, object] = {}
        self.values: list[object] = []

    def __setstate__(self, state: object) -> None:
        """Keep the state as it is."""
        self.state = state

    def __call__(self, *args: object) -> "Foreign":
        """What a call of a bound method or a partial function would have made."""
        return Foreign(self.class_name, (self, *args))

    def __setitem__(self, key: object, value: object) -> None:
        """Keep an entry of a dict subclass."""
        self.entries[key] = value

    def append(self, value: object) -> None:
        """Keep a value of a list subclass."""
        self.values.append(value)

    def extend(self, values: list[object]) -> None:
        """Keep values of a list subclass."""
        self.values.extend(values)

    add = append


class View:
    """A tensor, checked to lie inside its storage."""

    __slots__ = ("ref",)

    def __init__(self, ref: TensorRef) -> None:
        self.ref = ref

    def __setstate__(self, state: object) -> None:
        """Refuse: it would replace what was checked."""
        raise ImpossibleError("the pickle tries to change a tensor after it was made")


class Storage:
    """Bytes of the archive that tensors view."""

    __slots__ = ("dtype", "file", "size", "start")

    def __init__(self, file: str, start: int, size: int, dtype: str) -> None:
        self.file = file
        self.start = start
        self.size = size
        self.dtype = dtype

    __setstate__ = View.__setstate__


class StorageKind:
    """A storage class of torch, known by its element type."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    __setstate__ = View.__setstate__


class Mapping(dict[object, object]):
    """Stands for the standard library's dictionaries; attributes set on them are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drop attributes such as a state dict's `_metadata`."""


class NumpyType:
    """A numpy dtype: its code ("f8") and byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order from numpy's state."""
        self.order = ">" if state[1] == ">" else "<"

    def value(self, data: bytes) -> bool | int | float | complex | str | None:
        """The number or text in `data`; None for types that are neither."""
        if self.code in _NUMPY_STRUCT:
            (number,) = struct.unpack(self.order + _NUMPY_STRUCT[self.code], data)
            return number  # type: ignore[no-any-return]
        if self.code in ("c8", "c16"):
            real, imaginary = struct.unpack(self.order + ("ff" if self.code == "c8" else "dd"), data)
            return complex(real, imaginary)
        if self.code.startswith("U"):
            return data.decode("utf-32-le" if self.order == "<" else "utf-32-be").rstrip("\0")
        return None


class Array:
    """A numpy array; `state` is (version, shape, dtype, fortran order, data)."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Keep numpy's state."""
        self.state = state


def view(storage: object, offset: object, shape: object, stride: object, dtype: str | None = None) -> View:
    """A tensor on a storage. Raises ImpossibleError when any element would lie outside it."""
    if not isinstance(storage, Storage):
        raise ImpossibleError("a tensor has no storage")
    sizes, steps = whole_numbers(shape), whole_numbers(stride)
    (start,) = whole_numbers((offset,))
    if len(sizes) != len(steps):
        raise ImpossibleError(f"a tensor has {len(sizes)} sizes and {len(steps)} strides")
    kind = dtype or storage.dtype
    item = ITEM_BYTES[kind]
    reach = extent(sizes, steps)
    if reach and (start + reach) * item > storage.size:
        raise ImpossibleError(
            f"a tensor of shape {list(sizes)} needs {(start + reach) * item} bytes of a storage of {storage.size}"
        )
    _refuse_inflation(sizes, item, storage.size)
    return View(TensorRef(storage.file, storage.start, storage.size, kind, sizes, steps, start))


def whole_numbers(values: object) -> tuple[int, ...]:
    """Sizes or strides as torch allows them. Raises ImpossibleError for anything else."""
    numbers: tuple[Any, ...] = tuple(values) if isinstance(values, (tuple, list)) else (None,)
    # More than 64 dimensions: torch has no such tensor, and their product could be a number of megabytes.
    if len(numbers) > 64 or any(type(n) is not int or n < 0 or n >= 1 << 62 for n in numbers):
        raise ImpossibleError(f"a tensor's shape, stride or offset is not made of whole numbers: {str(values)[:80]}")
    return numbers


def _refuse_inflation(sizes: tuple[int, ...], item: int, storage_bytes: int) -> None:
    count = 1
    for size in sizes:
        count *= size
    if count * item > storage_bytes and count > _LARGEST_OVERLAP:
        raise ImpossibleError(f"a tensor shows {count} elements of a storage of {storage_bytes} bytes")
