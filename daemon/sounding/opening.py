"""Opens a proven checkpoint for measuring: tensors on mapped files, nothing loaded before it is touched."""

import gc
import math
import mmap
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch

from sounding.errors import SoundingError
from sounding.formats import format_of
from sounding.formats.proof import ImpossibleError, UnfinishedError
from sounding.records import Pieces, Product, Stored, TensorRef
from sounding.seeing.contents import contents_of

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if os.uname().sysname == "Linux" else 0)
_SpanKey = tuple[str, int, int]


def open_checkpoint(path: str) -> "Opened":
    """Open a checkpoint. Raises SoundingError when it is not (or no longer) a complete one."""
    place = Path(path).absolute()
    try:
        kind = format_of(place) if place.exists() else None
        if kind is None:
            raise SoundingError(f"{path} is not a checkpoint of a known format (or is gone).")
        return Opened(kind.read(place), own_names=kind.own_names)
    except UnfinishedError as error:
        raise SoundingError(f"{path} cannot be opened, it is not whole: {error}.") from error
    except (ImpossibleError, OSError) as error:
        raise SoundingError(f"{path} cannot be opened: {error}.") from error


class Opened:
    """The contents of a checkpoint; a context manager, after which no mapping of its files is left."""

    def __init__(self, tree: object, *, own_names: bool = False) -> None:
        contents = contents_of(tree, own_names=own_names)
        self.tree = tree
        self.networks: Mapping[str, Mapping[str, Stored]] = contents.networks  # default first
        self.left_out = contents.left_out  # of the same networks: why an entry is not among the tensors, by its name
        self.wrappers = contents.wrappers
        self.optimizers = contents.optimizers
        self.progress = contents.progress
        self._maps: dict[str, mmap.mmap] = {}
        self._spans: dict[_SpanKey, tuple[memoryview, torch.Tensor]] = {}
        self._copies: weakref.WeakValueDictionary[_SpanKey, memoryview] = weakref.WeakValueDictionary()
        self._held: dict[_SpanKey, weakref.ref[memoryview]] = {}  # still used by tensors when last asked to close

    def __enter__(self) -> "Opened":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except SoundingError:
            if error is None:  # the error under way says more than its consequence: its traceback holds the tensors
                raise

    def tensor(self, ref: Stored) -> torch.Tensor:
        """The tensor on the CPU; writing to it changes a private copy of the touched pages, never the file.

        Tensors that shared a storage when saved share it here. One in pieces, or a product, is put
        together in memory of its own.
        """
        if isinstance(ref, Pieces):
            return self._put_together(ref)
        if isinstance(ref, Product):
            return self._multiply(ref)
        dtype: torch.dtype = getattr(torch, ref.dtype)
        if math.prod(ref.shape) == 0:
            return torch.empty_strided(ref.shape, ref.stride, dtype=dtype)
        storage = self._storage(ref, dtype.itemsize)
        return torch.empty(0, dtype=dtype).set_(storage, ref.offset, ref.shape, ref.stride)

    def release(self, ref: Stored) -> None:
        """Give back the memory of the pages that a tensor alone fills; touched again, they are read again.

        A file that is gone through once otherwise stays in memory as far as it was read. What was written to these
        pages is lost.
        """
        if isinstance(ref, Pieces):
            for piece in ref.pieces:
                self.release(piece.ref)
        elif isinstance(ref, Product):
            self.release(ref.left)
            self.release(ref.right)
        elif ref.file in self._maps and 0 not in ref.shape:
            item = getattr(torch, ref.dtype).itemsize
            begin = ref.storage_start + ref.offset * item
            end = begin + (1 + sum((size - 1) * step for size, step in zip(ref.shape, ref.stride, strict=True))) * item
            first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last:
                self._maps[ref.file].madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Release every mapping. Raises SoundingError, leaving the mapping in place, while a tensor still uses it."""
        spans = self._held | {key: weakref.ref(view) for key, (view, _) in self._spans.items()}
        self._spans.clear()
        if any(view() is not None for view in spans.values()):
            gc.collect()
        self._held = {key: view for key, view in spans.items() if view() is not None}
        if self._held:
            raise SoundingError(self._complaint(list(self._held)))
        while self._maps:
            self._maps.popitem()[1].close()

    def _put_together(self, whole: Pieces) -> torch.Tensor:
        tensor = torch.empty(whole.grid, dtype=getattr(torch, whole.dtype))
        for piece in whole.pieces:
            place = tuple(slice(start, start + size) for start, size in zip(piece.start, piece.ref.shape, strict=True))
            tensor[place] = self.tensor(piece.ref)
        return tensor.view(whole.shape)

    def _multiply(self, product: Product) -> torch.Tensor:
        dtype: torch.dtype = getattr(torch, product.dtype)
        exact = torch.float64 if dtype == torch.float64 else torch.float32  # half precision would lose the sums
        change = self.tensor(product.left).to(exact) @ self.tensor(product.right).to(exact) * product.scale
        return (change.T.contiguous() if product.turned else change).to(dtype)

    def _storage(self, ref: TensorRef, item: int) -> torch.UntypedStorage:
        key = (ref.file, ref.storage_start, ref.storage_bytes)
        if key not in self._spans:
            view = memoryview(self._map(ref.file))[ref.storage_start : ref.storage_start + ref.storage_bytes]
            if len(view) < ref.storage_bytes:
                raise SoundingError(f"{ref.file} has become shorter while it was read.")
            if ref.storage_start % item:
                # torch cannot map what begins at an odd byte, as in safetensors and legacy files. The copy lives as
                # long as the tensors on it: a checkpoint of such tensors may be larger than memory.
                copy = self._copies.get(key)
                if copy is None:
                    copy = self._copies[key] = memoryview(bytearray(view))
                return torch.frombuffer(copy, dtype=torch.uint8).untyped_storage()
            self._spans[key] = (view, torch.frombuffer(view, dtype=torch.uint8))
        return self._spans[key][1].untyped_storage()

    def _map(self, file: str) -> mmap.mmap:
        if file not in self._maps:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # Private and writable, so that no plugin can write into the store or die of trying.
                self._maps[file] = mmap.mmap(
                    descriptor, 0, mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
                )
            finally:
                os.close(descriptor)
        return self._maps[file]

    def _complaint(self, held: list[_SpanKey]) -> str:
        def name(key: _SpanKey) -> str:
            for network in self.networks.values():
                for tensor, ref in network.items():
                    if isinstance(ref, TensorRef) and (ref.file, ref.storage_start, ref.storage_bytes) == key:
                        return tensor
            return f"the bytes from {key[1]}"

        names = ", ".join(name(key) for key in held[:5])
        return (
            f"{held[0][0]} cannot be released: {len(held)} of its tensors are still in use ({names}); "
            "clone() what must outlive the checkpoint."
        )
