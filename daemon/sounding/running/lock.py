"""One daemon per results directory: a lock that the kernel releases however its holder dies."""

import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from sounding.records import SoundingError

LOCK = "daemon.lock"
_ASKED_SECONDS = 0.25  # `holder` in other processes takes the lock for a moment to find out whether it is free


@dataclass(frozen=True, slots=True)
class Holder:
    """Who took the lock last, and whether it is still held."""

    host: str
    pid: int
    since: str  # UTC, ISO 8601
    alive: bool


class Lock:
    """Held for as long as a `with` block runs.

    Raises SoundingError on entry when another daemon, here or on another host, holds it.
    """

    def __init__(self, results: Path) -> None:
        self._path = results / LOCK
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _lock_soon(descriptor):
            os.close(descriptor)
            other = holder(self._path.parent)
            who = f"pid {other.pid} on {other.host}" if other is not None and other.pid else "another process"
            raise SoundingError(
                f"{self._path.parent}: a daemon already works here: {who}. Stop it first, or use results of your own "
                f"([results] path in sounding.toml)."
            )
        me = Holder(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(), True)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(results: Path) -> Holder | None:
    """The last daemon that took the lock; None when there never was one."""
    path = results / LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        alive = not _try_lock(descriptor, shared=True)
        text = os.pread(descriptor, 4096, 0).decode(errors="replace")
    finally:
        os.close(descriptor)
    try:
        return Holder(**{**json.loads(text), "alive": alive})
    except (ValueError, TypeError):
        return Holder("", 0, "", alive)  # taken this very moment, its name not written yet


def _lock_soon(descriptor: int) -> bool:
    """Take the lock, past those who only ask for a moment whether it is free."""
    give_up = time.monotonic() + _ASKED_SECONDS
    while not _try_lock(descriptor):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
