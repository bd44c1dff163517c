"""Inside a checkpoint: tensors as they lie in files, however they were written, and objects that stay closed."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where a tensor's bytes lie: enough to map it, nothing of it loaded.

    `dtype` is torch's name without the prefix ("float32", "bfloat16"). `shape`, `stride` and `offset` count
    elements; `storage_start` and `storage_bytes` bound the storage within `file`. A reader has checked that the
    view stays inside the storage.
    """

    file: str  # absolute
    storage_start: int
    storage_bytes: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of a tensor that was written in several: its values, and where in the whole they begin."""

    start: tuple[int, ...]  # elements, in the grid of the whole
    ref: TensorRef  # its shape is the block's


@dataclass(frozen=True, slots=True)
class Pieces:
    """A tensor that lies in several places, as sharded writers leave it; row-major when put together.

    A reader has checked that the pieces cover `grid` exactly once.
    """

    dtype: str
    shape: tuple[int, ...]
    grid: tuple[int, ...]  # what the pieces count in: `shape`, or (elements,) where the flattened tensor was cut
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """The matrix `scale · left · right` (transposed where `turned`), of which a checkpoint keeps only the factors."""

    dtype: str
    shape: tuple[int, ...]
    left: TensorRef
    right: TensorRef
    scale: float
    turned: bool = False


Stored: TypeAlias = TensorRef | Pieces | Product  # a tensor in a checkpoint, however it was written


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object in a checkpoint whose class is not ours to import; its plain state is kept, its code never runs."""

    class_name: str
    state: object  # nested plain values, TensorRefs and Opaques
