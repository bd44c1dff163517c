"""The heartbeat over a daemon's life, from the moment it holds the lock to the moment it gives it back."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from sounding.errors import SoundingError
from sounding.running.status import Mode, Status, read_status, write_status


class TakenOver(SoundingError):
    """The lock was given to another daemon, whose heartbeat is not ours to write."""


@dataclass
class Pulse:
    """Writes every status where readers look for it, and tells it to `report`."""

    results: Path
    mode: Mode
    report: Callable[[Status], None]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: Status | None = None

    def beat(self, status: Status) -> None:
        """Write and report; a heartbeat on a full disk is not worth dying for, and `report` still tells."""
        self.status = status
        with suppress(OSError):
            write_status(self.results, status)
        self.report(status)

    @contextmanager
    def life(self) -> Iterator[None]:
        """From starting to the end; what kills the daemon is its last word."""
        self.beat(self._starting())
        try:
            yield
        except TakenOver:
            raise
        except Exception as error:
            last = self.status or self._starting()
            heartbeat, words = datetime.now(UTC).isoformat(), f"{type(error).__name__}: {error}"
            message = str(error) if isinstance(error, SoundingError) else words
            self.beat(replace(last, heartbeat=heartbeat, state="died", running=(), message=message))
            raise

    def _starting(self) -> Status:
        """A first status; what was done before is known from the heartbeat of the daemon before."""
        now = self.started.isoformat()
        mine = Status(socket.gethostname(), os.getpid(), now, now, "starting", mode=self.mode)
        with suppress(SoundingError):  # another version's
            last = read_status(self.results)
            if last is not None:
                return replace(mine, stores=last.stores, done=last.done, skipped=last.skipped, failed=last.failed)
        return mine
