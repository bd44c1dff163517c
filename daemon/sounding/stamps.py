"""Stamps: what `stat` says of every file of a checkpoint, taken without opening any of them."""

import contextlib
import os
import stat
import sys
from pathlib import Path

from sounding.records import Ending, FileStamp, Stamp

_DEPTH = 3  # directories below a checkpoint directory that are looked into


def stamp_of(path: Path | str, status: os.stat_result | None = None) -> Stamp:
    """The stamp of a checkpoint: of the file itself, or of every regular file in the directory, sorted by path.

    Symbolic links inside a directory count as themselves and are not followed; what vanishes from a directory during
    the look is left out. `status` is what `stat` has just said of the path. Raises OSError when `path` itself is gone.
    """
    if status is None:
        status = os.stat(path)  # noqa: PTH116 - a store's scan calls this for every file it holds
    if not stat.S_ISDIR(status.st_mode):
        return (_stamp("", status),)
    found: list[FileStamp] = []
    _collect(os.fspath(path), "", _DEPTH, found)
    return tuple(sorted(found))


def change_of(path: Path | str, stamp: Stamp) -> tuple[Ending, str] | None:
    """How what lies there is no longer what had this stamp: GONE or SUPERSEDED, in words; None while it still is."""
    try:
        now = stamp_of(path)
    except OSError as error:
        return Ending.GONE, f"{path} is gone ({error.strerror})"
    if now == stamp:
        return None
    if set(now) < set(stamp):
        return Ending.GONE, f"{path} is being deleted: {len(now)} of its {len(stamp)} files are left"
    return Ending.SUPERSEDED, f"{path} was written to since it was seen"


def _collect(directory: str, prefix: str, depth: int, found: list[FileStamp]) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # a writer's temporary file, renamed meanwhile
                if not entry.is_dir(follow_symlinks=False):
                    found.append(_stamp(sys.intern(prefix + entry.name), entry.stat(follow_symlinks=False)))
                elif depth > 0:
                    _collect(entry.path, f"{prefix}{entry.name}/", depth - 1, found)


def _stamp(path: str, status: os.stat_result) -> FileStamp:
    return FileStamp(path, status.st_ino, status.st_size, status.st_mtime_ns)
