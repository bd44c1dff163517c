"""Ending in order: what tells a daemon to end, and the grace in which a job under way may still end by itself."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from types import FrameType

from sounding.records import Job
from sounding.running.crew import Crew

_PAUSE = 0.05  # seconds between two looks at jobs that are to end


@dataclass
class Told:
    """The signals heard so far; `fileno` becomes readable with the first, so that a loop can wait on it."""

    signals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """A handler of signals."""
        self.signals.append(number)
        with suppress(BlockingIOError):  # nobody has read the first thousands of them
            os.write(self._writer, b"!")

    @property
    def to_end(self) -> bool:
        """Whether to end, in order."""
        return bool(self.signals)

    @property
    def at_once(self) -> bool:
        """Whether to end without waiting for jobs."""
        return len(self.signals) > 1

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._reader

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._reader)
        os.close(self._writer)


@contextmanager
def until_told() -> Iterator[Told]:
    """Hear SIGINT and SIGTERM inside the block; elsewhere than in the main thread nothing is heard."""
    told = Told()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, told.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()


def drain(
    crew: Crew,
    collect: Callable[[float], None],
    told: Told,
    grace: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Job]:
    """Let jobs under way end within `grace` seconds, unless told a second time; those that did not.

    `collect` publishes what has ended. Nothing new is begun.
    """
    give_up = clock() + grace
    while (jobs := [job for job, _ in crew.jobs()]) and not told.at_once and clock() < give_up:
        wait([child.connection for child in crew.children if child.connection is not None], _PAUSE)
        collect(clock())
    return jobs
