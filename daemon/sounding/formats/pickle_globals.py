"""Which globals a pickle may call, and what is called instead: functions that only rearrange what they are given."""

import datetime
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from sounding.formats.dtypes import ITEM_BYTES, TORCH_STORAGES
from sounding.formats.proof import ImpossibleError
from sounding.formats.stubs import Array, Foreign, Mapping, NumpyType, Sealed, StorageKind, View, view, whole_numbers


def _tensor_v2(storage: object, offset: object, size: object, stride: object, *rest: object) -> object:
    metadata = rest[2] if len(rest) > 2 else None
    return _flagged(view(storage, offset, size, stride), metadata)


def _tensor_v3(storage: object, offset: object, size: object, stride: object, *rest: object) -> object:
    kind = rest[2] if len(rest) > 2 else ""
    dtype = (kind.__name__ if isinstance(kind, Sealed) else str(kind)).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        return Foreign("torch._utils._rebuild_tensor_v3", (size, stride, dtype))
    return _flagged(view(storage, offset, size, stride, dtype), rest[3] if len(rest) > 3 else None)


def _flagged(tensor: View, metadata: object) -> object:
    """A tensor whose bytes are to be conjugated or negated first is not the plain view it looks like."""
    flagged = isinstance(metadata, dict) and (metadata.get("conj") or metadata.get("neg"))
    return Foreign("torch.Tensor", ("conjugate or negative view", tensor)) if flagged else tensor


def _quantized(storage: object, offset: object, size: object, stride: object, *rest: object) -> object:
    """The whole numbers that a quantized tensor is kept as, beside how they are scaled."""
    try:
        kept: object = view(storage, offset, size, stride)
    except ImpossibleError:  # several numbers to a byte; or a lie, of which nothing is made
        kept = (size, stride)
    return Foreign("torch._utils._rebuild_qtensor", (kept, *rest[:1]))


def _parameter(data: object, *_: object) -> object:
    return data


def _from_type(function: object, _type: object, args: tuple[object, ...], *_: object) -> object:
    if not isinstance(function, Sealed):
        raise ImpossibleError("a tensor is rebuilt by something that is no function")
    made: object = function(*args)
    return made


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ImpossibleError(f"text in an unexpected encoding: {str(encoding)[:40]}")
    return text.encode(encoding)


def _bytes(*args: object) -> bytes:
    """Only from bytes or text: bytes(n) would allocate n bytes at a stranger's word."""
    if not args:
        return b""
    first = args[0]
    if isinstance(first, str):
        return _encode(first, str(args[1]) if len(args) > 1 else "latin1")
    if isinstance(first, (bytes, bytearray)):
        return bytes(first)
    raise ImpossibleError("bytes made from something that is neither bytes nor text")


def _set(values: object = ()) -> set[object]:
    return set(values) if isinstance(values, (list, tuple, set)) else set()


def _listed(values: object = (), *_: object) -> list[object]:
    return list(values) if isinstance(values, (list, tuple)) else []


def _mapping(*args: object) -> Mapping:
    """From pairs or a dictionary; a defaultdict's factory is dropped."""
    first = args[0] if args else ()
    return Mapping(first) if isinstance(first, (list, dict)) else Mapping()


def _path(*parts: object) -> str:
    return str(PurePosixPath(*[part for part in parts if isinstance(part, str)]))


def _numpy_scalar(dtype: object, data: object = b"") -> object:
    value = dtype.value(data) if isinstance(dtype, NumpyType) and isinstance(data, bytes) else None
    return Foreign("numpy.generic", (dtype, data)) if value is None else value


def _size(values: object = ()) -> tuple[int, ...]:
    return whole_numbers(values)


def _datetime(payload: object, *rest: object) -> str:
    if isinstance(payload, str):  # a pickle in Python 2's manner
        payload = payload.encode("latin1")
    arguments: tuple[Any, ...] = (payload, *[part for part in rest if isinstance(part, int)])
    return datetime.datetime(*arguments).isoformat()


def _date(payload: Any, *rest: Any) -> str:
    arguments: tuple[Any, ...] = (payload.encode("latin1") if isinstance(payload, str) else payload, *rest)
    return datetime.date(*arguments).isoformat()


def _seconds(days: float = 0, seconds: float = 0, microseconds: float = 0) -> float:
    return datetime.timedelta(days, seconds, microseconds).total_seconds()


def _complex(real: float = 0.0, imaginary: float = 0.0) -> complex:
    return complex(real, imaginary)


_PATHS = ("PosixPath", "PurePosixPath", "Path", "PurePath", "WindowsPath", "PureWindowsPath")
CALLS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.parameter.Buffer": _parameter,
    "torch.Size": _size,
    "torch.device": lambda *parts: ":".join(str(part) for part in parts),
    "torch.serialization._get_layout": str,
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.set": _set,
    "builtins.frozenset": lambda *args: frozenset(_set(*args)),
    "builtins.list": _listed,
    "builtins.dict": _mapping,
    "builtins.complex": _complex,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda *args: _mapping(*args[1:]),
    "collections.deque": _listed,
    "datetime.datetime": _datetime,
    "datetime.date": _date,
    "datetime.timedelta": _seconds,
    "numpy.dtype": lambda code="V", *_: NumpyType(str(code)),
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": lambda *_: Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: Array(),
    **{f"{module}.{name}": _path for module in ("pathlib", "pathlib._local") for name in _PATHS},
}
STORAGE_KINDS: dict[str, StorageKind] = {
    f"{module}.{name}": StorageKind(dtype)
    for module in ("torch", "torch.storage", "torch.cuda")
    for name, dtype in TORCH_STORAGES.items()
}
VALUES: dict[str, str] = {f"torch.{dtype}": f"torch.{dtype}" for dtype in ITEM_BYTES}
