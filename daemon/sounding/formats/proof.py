"""What a format is, and the two ways in which a file is not (yet) a checkpoint."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sounding.records import State


class UnfinishedError(Exception):
    """The bytes so far could be the beginning of a checkpoint; the message says what is missing."""


class ImpossibleError(Exception):
    """No further bytes can make this a checkpoint; the message says why."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a format says of a path, from its bytes."""

    state: State  # COMPLETE, PENDING or BROKEN
    reason: str  # in words for a person
    needs_quiet: bool = False  # complete only if nothing is written to it any more


@dataclass(frozen=True, slots=True)
class Format:
    """A checkpoint format. None of its functions imports torch or runs code from the file.

    `check` returns what was proven in words, and raises UnfinishedError, ImpossibleError or OSError; callers
    use `prove`.
    `fingerprint` and `read` raise the same; `read` returns only what it has proven whole itself.
    """

    name: str
    claims: Callable[[Path], bool]  # by name, kind and first bytes
    check: Callable[[Path], str]
    fingerprint: Callable[[Path], str]  # 32 hexadecimal digits of the content alone
    read: Callable[[Path], object]  # nested plain values whose leaves are TensorRef, Opaque or plain
    needs_quiet: bool | Callable[[Path], bool]  # a function where it depends on what lies there
    own_names: bool = False  # tensors are named as the architecture names them: a leading `model.` is no wrapper

    def prove(self, path: Path) -> Proof:
        """Whether `path` is a whole checkpoint; never raises for what the files contain."""
        try:
            proven = self.check(path)
            quiet = self.needs_quiet if isinstance(self.needs_quiet, bool) else self.needs_quiet(path)
            return Proof(State.COMPLETE, proven, quiet)
        except UnfinishedError as unfinished:
            return Proof(State.PENDING, str(unfinished))
        except ImpossibleError as impossible:
            return Proof(State.BROKEN, str(impossible))
        except OSError as error:
            return Proof(State.PENDING, f"cannot be read: {error.strerror or error}")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, without ever waiting on a pipe or a device.

    Raises ImpossibleError for anything else that can be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ImpossibleError(f"{path.name} is not a regular file")
        yield file


def contained(directory: Path, name: str) -> Path:
    """A file of the directory itself. Raises ImpossibleError for names and links that lead out of it."""
    if "\0" in name or "/" in name or name in ("", ".", ".."):
        raise ImpossibleError(f"a file is named {name[:80]!r}, which is not a name in the directory")
    path = directory / name
    if path.resolve().parent != directory.resolve():
        raise ImpossibleError(f"{name[:80]} is a link that leads out of the directory")
    return path


def first_bytes(path: Path, count: int) -> bytes:
    """The first `count` bytes, or fewer; none for what cannot be read."""
    try:
        with opened(path) as file:
            return file.read(count)
    except (OSError, ImpossibleError):
        return b""


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file at this moment."""
    return os.fstat(file.fileno()).st_size


def refuse_holes(file: BinaryIO, name: str) -> None:
    """Raise UnfinishedError when the file has a range that was reserved but never written.

    Says nothing on file systems that do not know their holes: they report the end of the file.
    """
    size = size_of(file)
    if size == 0:
        return
    try:
        hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
    except OSError:  # not supported here; the other proofs stand alone
        return
    if hole < size:
        raise UnfinishedError(
            f"{name} has a hole at byte {hole} of {size}: reserved but not written "
            "(a sparse copy looks the same; copy it with `cp --sparse=never`)"
        )


def megabytes(count: int) -> str:
    """A size in words, for reasons."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count} bytes"
