"""Holding: copies, outside the store, of checkpoints that may vanish while they are read; for one job each.

Hard links would share the inode with the trainer's file and change it; a reflink shares only blocks, and costs nothing
where the file system has them. Everything here runs in the worker, which may be killed at any byte.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sounding.formats.proof import ImpossibleError, megabytes, opened
from sounding.formats.spare import is_spare
from sounding.records import Checkpoint, Copy, FileStamp, Hold, Job, TaskResult
from sounding.stamps import change_of

if sys.platform == "linux":
    import fcntl

_FICLONE = 0x40049409  # of <linux/fs.h>
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_TOO_LATE = "no copy of it was made in time"
_SLOWEST = 20e6  # bytes per second that copying is expected to take at least


class _NoRoomError(Exception):
    """There is no place for a copy, for the reason given."""


@contextmanager
def held(job: Job, *, only_weights: bool) -> Iterator[Job]:
    """The job with copies of its checkpoints to read, where it orders any; they are deleted when the block is left.

    With `only_weights`, files that hold nothing of a network's weights are left out.
    """
    if job.hold is None:
        yield job
        return
    try:
        yield replace(job, copies=_copies(job, job.hold, only_weights))
    finally:
        release(job)


def told_of_originals(job: Job, results: Sequence[TaskResult]) -> list[TaskResult]:
    """The results, with reasons that name the checkpoints and not their copies."""
    told = list(results)
    for checkpoint in job.sources:
        read = job.copies.get(checkpoint.checkpoint_id, Copy()).path
        if read:
            told = [replace(each, reason=each.reason.replace(read, checkpoint.path)) for each in told]
    return told


def release(job: Job) -> None:
    """Delete the job's copies, if there are any; what cannot be deleted is swept by the next start."""
    if job.hold is not None:
        shutil.rmtree(job.hold.room, ignore_errors=True)


def patience(job: Job) -> float:
    """Seconds that copying may add to the job."""
    return 0.0 if job.hold is None else sum(each.size_bytes for each in job.sources) / _SLOWEST


def _copies(job: Job, hold: Hold, only_weights: bool) -> dict[str, Copy]:
    copies: dict[str, Copy] = {}
    for number, checkpoint in enumerate({each.checkpoint_id: each for each in job.sources}.values()):
        place = Path(hold.room) / str(number)
        copies[checkpoint.checkpoint_id] = made = _copy(checkpoint, place, hold, only_weights)
        if not made.path:
            shutil.rmtree(place, ignore_errors=True)
    return copies


def _copy(checkpoint: Checkpoint, place: Path, hold: Hold, only_weights: bool) -> Copy:
    """Copy a checkpoint if it is what was planned for before and after."""
    files = [each for each in checkpoint.stamp if not (only_weights and is_spare(checkpoint.format, each.path))]
    target = place / Path(checkpoint.path).name  # formats are told by names, too
    early = change_of(checkpoint.path, checkpoint.stamp)
    if early is not None:
        return Copy(reason=_TOO_LATE, is_lost=True)
    try:
        _fill(Path(checkpoint.path), target, files, hold)
    except _NoRoomError as refusal:
        return Copy(reason=f"read where it lies, without a copy: {refusal}")
    except OSError as error:
        if error.errno in _FULL:
            return Copy(reason=f"read where it lies, without a copy: {error.strerror}")
        return Copy(reason=f"{checkpoint.path} could not be copied: {error.strerror or error}", is_lost=True)
    except ImpossibleError as error:  # it has just become one
        return Copy(reason=f"{checkpoint.path} could not be copied: {error}", is_lost=True)
    if change_of(checkpoint.path, checkpoint.stamp) is not None:
        return Copy(reason=_TOO_LATE, is_lost=True)
    return Copy(str(target), only_weights=len(files) < len(checkpoint.stamp))


def _fill(source: Path, target: Path, files: list[FileStamp], hold: Hold) -> None:
    """Copy the files of a checkpoint, with their times. Raises _NoRoomError, ImpossibleError or OSError."""
    try:
        Path(hold.room).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _NoRoomError(f"{hold.room} cannot be made ({error.strerror})") from error
    copied: list[FileStamp] = []
    rest: list[FileStamp] = []
    for file in files:
        one, copy = source / file.path, target / file.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.path and one.is_symlink():
            _link(one, copy, source)
        elif one.is_file():  # no format reads anything else
            copied.append(file)
            if not _reflinked(one, copy):
                rest.append(file)
    _require_room(sum(file.size for file in rest), hold)
    for file in rest:
        shutil.copyfile(source / file.path, target / file.path)
    for file in copied:  # formats compare the times of files with each other
        os.utime(target / file.path, ns=(file.mtime_ns, file.mtime_ns))


def _link(one: Path, copy: Path, source: Path) -> None:
    """Repeat a link that stays inside the checkpoint; others are followed by no format."""
    leads_to, top = one.resolve(), source.resolve()
    if leads_to.is_relative_to(top):
        copy.symlink_to(os.path.relpath(leads_to, one.parent.resolve()))


def _reflinked(one: Path, copy: Path) -> bool:
    """Whether the file system gave the copy the same blocks. Raises ImpossibleError for what is no regular file."""
    with opened(one) as file, copy.open("wb") as made:
        if sys.platform != "linux":
            return False
        try:
            fcntl.ioctl(made.fileno(), _FICLONE, file.fileno())
        except OSError:  # another file system, or one that cannot
            return False
        return True


def _require_room(size: int, hold: Hold) -> None:
    """Raise _NoRoomError where so many more bytes are too many; shared blocks take no room."""
    if size == 0:
        return
    used = sum(file.stat().st_size for file in Path(hold.room).rglob("*") if file.is_file())
    if used + size > hold.most_bytes:
        raise _NoRoomError(f"{megabytes(used + size)} are more than the {megabytes(hold.most_bytes)} of holds_max")
    free = shutil.disk_usage(hold.room).free
    if free - size < hold.keep_free_bytes:
        raise _NoRoomError(f"{megabytes(size)} do not fit on the disk of the results, which has {megabytes(free)} free")
