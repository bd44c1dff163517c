"""A directory of torch.distributed.checkpoint: shards of many ranks, and a `.metadata` that says what lies where."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sounding.formats import torch_zip
from sounding.formats.distributed_index import METADATA, Index, Key, Whole, read_index
from sounding.formats.dtypes import ITEM_BYTES
from sounding.formats.nesting import nested
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

_BESIDE = "meta.pt"
_SAME_TIME_NS = 2_000_000_000  # clocks of hosts that write into one directory differ


def _claims(path: Path) -> bool:
    if not path.is_dir():
        return False
    return (path / METADATA).exists() or any(path.glob("*.distcp")) or any(path.glob("__*.metadata"))


def check(path: Path) -> str:
    """Prove every file long enough, every entry in it whole, and every tensor covered by its blocks."""
    index = read_index(path)
    _tree(path, index)
    files = len(index.files)
    return f"{files} file{'s' if files != 1 else ''} of {len(index.entries)} entries, whole"


def needs_quiet(path: Path) -> bool:
    """Whether some data was written after `.metadata`, which the writer finishes last."""
    written = (path / METADATA).stat().st_mtime_ns
    return any(contained(path, name).stat().st_mtime_ns > written for name in read_index(path).files)


def fingerprint(path: Path) -> str:
    """Digest of the entries' names and places, and of samples of each."""
    digest = Digest()
    index = read_index(path)
    for name in sorted(index.files):
        items = [item for item in index.items if item.file == name]
        for item in items:
            digest.add(f"{item.key} {item.start} {item.size}")
        with opened(contained(path, name)) as file:
            digest.add_samples(file, [(item.start, item.size) for item in items])
    return digest.hex()


def read(path: Path) -> object:
    """The state dict as it was before it was flattened, with TensorRefs and Pieces in place of tensors.

    What Lightning keeps beside it (steps, hyperparameters, loops) is put in its place.
    """
    return _tree(path, read_index(path))


def _tree(path: Path, index: Index) -> object:
    tree = nested(_values(path, index), index.paths)
    beside = torch_zip.read_named(path / _BESIDE) if (path / _BESIDE).is_file() else None
    return {**beside, **tree} if isinstance(tree, dict) and isinstance(beside, dict) else tree


def _values(path: Path, index: Index) -> dict[str, object]:
    """What every entry holds, after proving that it is there."""
    _require_files(path, index.files)
    found: dict[Key, object] = {}
    try:
        for name in index.files:
            with opened(contained(path, name)) as file:
                refuse_holes(file, name)
                for item in (item for item in index.items if item.file == name):
                    found[item.key] = torch_zip.read_within(file, contained(path, name), item.start, item.size)
        return {name: _value(name, whole, found) for name, whole in index.entries.items()}
    except ImpossibleError as error:
        if _newer(path, index.files, 0):
            raise UnfinishedError(f"files are newer than {METADATA} and do not fit it: saved anew? {error}") from error
        raise


def _value(name: str, whole: Whole | None, found: Mapping[Key, object]) -> object:
    if whole is None:
        if (name, None) not in found:
            raise ImpossibleError(f"{METADATA} does not say where {name[:80]} lies")
        return found[name, None]
    pieces: list[Piece] = []
    for start, sizes in whole.blocks.items():
        ref = found.get((name, start))
        if isinstance(ref, Opaque):
            return ref
        if not isinstance(ref, TensorRef) or whole.dtype not in ITEM_BYTES:
            return Opaque("torch.Tensor", {"dtype": whole.dtype, "shape": whole.shape})
        if ref.shape != sizes:
            raise ImpossibleError(f"a block of {name[:80]} has shape {list(ref.shape)}, {METADATA} says {list(sizes)}")
        pieces.append(Piece(start, ref))
    return _whole(name, whole, pieces)


def _whole(name: str, whole: Whole, pieces: Sequence[Piece]) -> Stored:
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
            f"{len(newer)} of {len(files)} files are newer than {METADATA}: being saved anew "
            "(a copy that keeps no times looks the same; copy it with `cp -p`)"
        )


def _newer(path: Path, files: Mapping[str, int], tolerance: int) -> list[str]:
    written = (path / METADATA).stat().st_mtime_ns + tolerance
    return [name for name in files if contained(path, name).stat().st_mtime_ns > written]


FORMAT = Format("torch DCP directory", _claims, check, fingerprint, read, needs_quiet)
