"""Running the daemon in this process: from the lock to the last heartbeat."""

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import wait
from types import FrameType

from sounding.config import Settings, Store
from sounding.deciding.policy import wishes_of
from sounding.keeping.ledger import Ledger
from sounding.keeping.results import ResultsDirectory
from sounding.records import Examination, Sighting, SoundingError, State, Verdict
from sounding.running import catalogue as catalogues
from sounding.running.crew import Crew, publish_marks
from sounding.running.dispatch import Child, Limits, call_and_wait
from sounding.running.foreman import Foreman
from sounding.running.journal import Journal
from sounding.running.lock import Lock
from sounding.running.loop import Daemon
from sounding.running.status import Status, write_status
from sounding.running.tell import tell
from sounding.seeing.lookout import Lookout, Seen
from sounding.seeing.watch import Bell, Watch

EXAMINE = Limits(deadline_seconds=20.0, memory_bytes=2 << 30)
_BEAT_SECONDS = 1.0


@dataclass
class Examiner:
    """Looks into files written by strangers, in a child that can be killed."""

    child: Child = field(default_factory=lambda: Child("examiner"))

    def __call__(self, sighting: Sighting, store: Store) -> Examination:
        """Examine a sighting; an examiner that dies or runs too long leaves the sighting pending, and says so."""
        arguments = (sighting, store.attributes, str(store.path))
        try:
            examination: Examination = call_and_wait(self.child, "sounding.seeing.examine:examine", arguments, EXAMINE)
        except SoundingError as error:
            return Examination(Verdict(State.PENDING, f"could not be examined: {error}"))
        return examination


@contextlib.contextmanager
def running(settings: Settings, *, once: bool = False, results: ResultsDirectory | None = None) -> Iterator[Daemon]:
    """A daemon ready for its first turn; ended in order when the block is left.

    `results` replaces the directory that the settings name. Raises SoundingError when another daemon works on the
    same results, or when plugins cannot be discovered.
    """
    results = results or ResultsDirectory(settings.results)
    results.prepare()
    with Lock(settings.results), contextlib.ExitStack() as stack:
        publish_marks(results)
        results.sweep(lambda name: False)  # the lock is ours: whoever wrote there is gone
        examiner = Examiner(Child("examiner", settings.daemon.nice))
        stack.callback(examiner.child.stop)
        epoch = uuid.uuid4().hex[:8]
        ledger = Ledger(results)
        ledger.refresh()
        journal = Journal(results, ledger, epoch)
        catalogue = catalogues.describe(examiner.child, settings)
        catalogues.remember(catalogue, settings.results)
        journal.write_settings(catalogue, datetime.now(UTC))
        ledger.refresh()
        crew = _crew(settings, results, epoch, catalogue.without)
        stack.callback(crew.stop)
        crew.start(time.monotonic())
        bell = Bell()
        stack.callback(bell.close)
        watch = Watch(bell)
        stack.callback(watch.close)
        lookout = Lookout(settings, ledger, examiner)
        foreman = Foreman(settings, ledger, lookout, wishes_of(catalogue, settings), once)
        daemon = Daemon(settings, results, ledger, journal, lookout, foreman, crew, catalogue, bell, watch)
        stack.callback(daemon.close)
        yield daemon


def watch(
    settings: Settings,
    *,
    once: bool = False,
    until_idle: float | None = None,
    more_to_come: Callable[[], bool] = lambda: False,
    report: Callable[[Status], None] = lambda status: None,
    results: ResultsDirectory | None = None,
) -> Status:
    """Run the daemon here until it is told to stop; returns its last account of itself.

    `once` leaves when everything that is there is measured; `until_idle` leaves when for so many seconds nothing new
    came and nothing was owed, unless `more_to_come` says that it is not over yet. `report` receives the status after
    every turn in which it changed. SIGINT and SIGTERM end it in order: running jobs are given back.
    """
    started = datetime.now(UTC)
    status = Status(socket.gethostname(), os.getpid(), started.isoformat(), started.isoformat(), "starting")
    report(status)
    with _until_signalled() as stopped, running(settings, once=once, results=results) as daemon:
        beat_at = -_BEAT_SECONDS
        while not stopped.is_set():
            now = time.monotonic()
            daemon.tick(now, datetime.now(UTC))
            if time.monotonic() - beat_at >= _BEAT_SECONDS or daemon.busy_at == now:
                status = tell(daemon, started, "measuring" if daemon.crew.busy else "watching")
                _beat(settings, status, report)
                beat_at = time.monotonic()
            if _may_leave(daemon, time.monotonic(), once, until_idle) and not more_to_come():
                break
            connections = [child.connection for child in daemon.crew.children if child.connection is not None]
            wait([daemon.bell.fileno(), *connections], daemon.pause(time.monotonic()))
        status = tell(daemon, started, "stopped")
        _beat(settings, status, report)
    return status


def look(settings: Settings) -> list[Seen]:
    """Look at every store once, without measuring or writing anything; quiet times are not waited for."""
    results = ResultsDirectory(settings.results)
    ledger = Ledger(results)
    if results.jobs.is_dir():
        ledger.refresh()
    examiner = Examiner()
    lookout = Lookout(settings, ledger, examiner)
    try:
        seen = look_at(lookout)
    finally:
        examiner.child.stop()
    problems = [problem for problem in lookout.problems.values() if problem]
    if problems and not seen:
        raise SoundingError("\n".join(problems))
    return sorted(seen.values(), key=lambda each: (each.sighting.store, each.sighting.run, each.sighting.path))


def look_at(lookout: Lookout) -> Mapping[str, Seen]:
    """Everything in sight at this moment, by path, examined to the last."""
    lookout.look(time.monotonic(), datetime.now(UTC), budget=float("inf"))
    return lookout.seen


def _crew(settings: Settings, results: ResultsDirectory, epoch: str, without: tuple[str, ...]) -> Crew:
    table = settings.daemon
    children = [Child(f"worker {number}", table.nice, settings.threads, without) for number in range(table.workers)]
    return Crew(results, children, Limits(table.deadline_seconds, table.memory_limit_mb << 20), epoch)


def _may_leave(daemon: Daemon, now: float, once: bool, until_idle: float | None) -> bool:
    if not daemon.is_idle(now):
        return False
    if once:
        return True
    return until_idle is not None and not daemon.foreman.awaits_retry and now - daemon.busy_at >= until_idle


def _beat(settings: Settings, status: Status, report: Callable[[Status], None]) -> None:
    with contextlib.suppress(OSError):  # a heartbeat on a full disk is not worth dying for; `report` still tells
        write_status(settings.results, status)
    report(status)


@contextlib.contextmanager
def _until_signalled() -> Iterator[threading.Event]:
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
