"""One daemon per results directory: a lock that the kernel releases however its holder dies.

The kernel's lock decides between processes of one kernel. What the holder wrote into the file decides where that lock
is silent: on another machine, after a restart, and on file systems without locks.
"""

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from sounding.errors import SoundingError
from sounding.running.machine import Machine, this_machine
from sounding.running.status import heard

LOCK = "daemon.lock"
_ASKED_SECONDS = 0.25  # `holder` in other processes takes the lock for a moment to find out whether it is free
_HELD = (errno.EAGAIN, errno.EACCES)  # anything else means that this file system has no locks


class Standing(StrEnum):
    """What is known of a lock's holder."""

    FREE = "free"  # nobody holds it: it was given back, or its holder is known to be dead
    HELD = "held"  # its holder lives
    ELSEWHERE = "elsewhere"  # taken on another machine and not given back; whether it lives cannot be told from here


@dataclass(frozen=True, slots=True)
class Holder:
    """Who took the lock last. `boot` and `born` tell it from a later process with the same number."""

    host: str
    pid: int
    since: str  # UTC, ISO 8601
    boot: str = ""
    born: str = ""
    released: bool = False
    standing: Standing = Standing.FREE

    @property
    def alive(self) -> bool:
        """Whether it is known to hold the lock now."""
        return self.standing is Standing.HELD

    @property
    def name(self) -> str:
        """For people."""
        return f"pid {self.pid} on {self.host}" if self.pid else "another process"

    def is_here(self, here: Machine) -> bool:
        """Whether this very process runs on this machine, so that a signal would reach it and nobody else."""
        return here.same_kernel(self.host, self.boot) and self.born != "" and here.born(self.pid) == self.born


class Lock:
    """Held for as long as a `with` block runs.

    Raises SoundingError on entry when another daemon, here or on another host, holds it or may hold it.
    """

    def __init__(self, results: Path, here: Machine | None = None) -> None:
        self._results = results
        self._here = here or this_machine()
        self._descriptor: int | None = None
        self._me: Holder | None = None

    def __enter__(self) -> Self:
        descriptor = os.open(self._results / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            taken = _lock_soon(descriptor)
            before = _written(descriptor)
            standing = judge(before, taken, self._here)
            if standing is not Standing.FREE:
                raise refusal(self._results, replace(before or _NOBODY, standing=standing))
            pid, now = os.getpid(), datetime.now(UTC).isoformat()
            self._me = Holder(self._here.host, pid, now, self._here.boot, self._here.born(pid), standing=Standing.HELD)
            _write(descriptor, self._me)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None and self._me is not None:
            with suppress(OSError):  # a full disk; the kernel gives the lock back all the same
                if self.is_mine():
                    _write(self._descriptor, replace(self._me, released=True))
            os.close(self._descriptor)
            self._descriptor = None

    def is_mine(self) -> bool:
        """Whether nobody has taken it away: by `forget` on another machine, or by deleting the file."""
        assert self._descriptor is not None
        try:
            there = (self._results / LOCK).stat()
        except FileNotFoundError:
            return False
        if not os.path.samestat(there, os.fstat(self._descriptor)):
            return False
        return _written(self._descriptor) == replace(self._me or _NOBODY, standing=Standing.FREE)


def holder(results: Path, here: Machine | None = None) -> Holder | None:
    """The last daemon that took the lock, and what is known of it now; None when there never was one.

    Not for the holder's own process: on some network file systems closing the file here would give its lock back.
    """
    try:
        descriptor = os.open(results / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        taken = _try_lock(descriptor, shared=True)
        written = _written(descriptor)
    finally:
        os.close(descriptor)
    return replace(written or _NOBODY, standing=judge(written, taken, here or this_machine()))


def judge(written: Holder | None, taken: bool | None, here: Machine) -> Standing:
    """What is known of the holder who wrote itself into the file.

    `taken` says whether the kernel's lock could be had just now; None where the file system has no locks.
    """
    if taken is False:
        return Standing.HELD
    if written is None or written.released:
        return Standing.FREE
    if taken is None and written.is_here(here):
        return Standing.HELD
    here_before = here.same_kernel(written.host, written.boot) and taken is True
    return Standing.FREE if here_before or written.host == here.host else Standing.ELSEWHERE


def refusal(results: Path, other: Holder) -> SoundingError:
    """Why no daemon can start here, and what to do about it."""
    if other.standing is Standing.ELSEWHERE:
        return SoundingError(
            f"{results}: held by host {other.host} (pid {other.pid}), {heard(results)}; stop it there. If that machine "
            f"is gone, `sounding stop --forget` frees the results."
        )
    return SoundingError(
        f"{results}: a daemon already works here: {other.name}. Stop it first (`sounding stop`), or use results of "
        f"your own ([results] path in sounding.toml)."
    )


def forget(results: Path, here: Machine | None = None) -> Holder:
    """Free a lock whose holder was on a machine that is gone; who held it.

    Raises SoundingError when nobody holds it, or when its holder is known to live.
    """
    known = holder(results, here)
    if known is None or known.standing is Standing.FREE:
        raise SoundingError(f"{results}: nothing to forget: no daemon holds these results.")
    if known.standing is Standing.HELD:
        raise SoundingError(f"{results}: not forgotten: {known.name} lives, since it holds its lock; stop it instead.")
    descriptor = os.open(results / LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        if _lock_soon(descriptor) is False or _written(descriptor) != replace(known, standing=Standing.FREE):
            raise SoundingError(f"{results}: another daemon has just started here; `sounding status` tells which.")
        _write(descriptor, replace(known, released=True, standing=Standing.FREE))
    finally:
        os.close(descriptor)
    return known


_NOBODY = Holder("", 0, "")  # the lock was taken this very moment, and no name is written yet


def _write(descriptor: int, me: Holder) -> None:
    fields = {name: value for name, value in asdict(me).items() if name != "standing"}
    text = json.dumps(fields).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _written(descriptor: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0).decode(errors="replace")))
    except (ValueError, TypeError):
        return None


def _lock_soon(descriptor: int) -> bool | None:
    """Take the lock, past those who only ask for a moment whether it is free; None where there are no locks."""
    give_up = time.monotonic() + _ASKED_SECONDS
    while (taken := _try_lock(descriptor)) is False:
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return taken


def _try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True
