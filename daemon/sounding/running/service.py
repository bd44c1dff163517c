"""Running the daemon in this process: from the lock to the last heartbeat."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing.connection import wait

from sounding.config import Settings, Store
from sounding.deciding.policy import wishes_of
from sounding.errors import SoundingError
from sounding.keeping.ledger import Ledger
from sounding.keeping.results import ResultsDirectory
from sounding.records import Examination, Sighting, State, Verdict
from sounding.running import catalogue as catalogues
from sounding.running.clerk import Clerk, in_child
from sounding.running.crew import Crew, publish_marks
from sounding.running.disk import make_ready
from sounding.running.dispatch import Child, Limits, call_and_wait
from sounding.running.ending import Told, drain, until_told
from sounding.running.foreman import Foreman
from sounding.running.journal import Journal
from sounding.running.lock import Lock
from sounding.running.loop import Daemon
from sounding.running.pulse import Pulse, TakenOver
from sounding.running.status import Mode, Status
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
def running(
    settings: Settings,
    *,
    once: bool = False,
    results: ResultsDirectory | None = None,
    life: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Iterator[Daemon]:
    """A daemon ready for its first turn; ended in order when the block is left.

    `results` replaces the directory that the settings name; `life` is entered as soon as the lock is held, and left
    before it is given back. Raises SoundingError when another daemon works on the same results, or when plugins
    cannot be discovered.
    """
    results = results or ResultsDirectory(settings.results)
    make_ready(results)
    with Lock(settings.results) as lock, life(), contextlib.ExitStack() as stack:
        publish_marks(results)
        results.sweep(lambda name: False)  # the lock is ours: whoever wrote there is gone
        examiner = Examiner(Child("examiner", settings.daemon.nice, settings.threads))
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
        clerk = Clerk(settings, results, in_child(examiner.child), epoch)
        daemon = Daemon(settings, results, ledger, journal, lookout, foreman, crew, catalogue, bell, watch, lock, clerk)
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
    mode: Mode = "foreground",
) -> Status:
    """Run the daemon in this process until it is told to stop; returns its last account of itself.

    `once` leaves when everything that is there is measured; `until_idle` leaves when for so many seconds nothing new
    came and nothing was owed, unless `more_to_come` says that it is not over yet. Runs then count as ended, and what is
    measured at a run's end is measured first. `report` receives the status after every turn in which it changed. SIGINT
    and SIGTERM end it in order: jobs under way are kept if they end within the grace, and returned otherwise; a second
    signal waits for none.
    """
    pulse = Pulse(settings.results, mode, report)
    with until_told() as told, running(settings, once=once, results=results, life=pulse.life) as daemon:
        beat_at = -_BEAT_SECONDS
        while not told.to_end:
            now = time.monotonic()
            daemon.tick(now, datetime.now(UTC))
            if time.monotonic() - beat_at >= _BEAT_SECONDS or daemon.busy_at == now:
                state = "measuring" if daemon.crew.working else "watching"
                _beat(pulse, daemon, tell(daemon, pulse.started, state, pulse.mode))
                beat_at = time.monotonic()
            if _may_leave(daemon, time.monotonic(), once, until_idle) and not more_to_come():
                if daemon.foreman.once:
                    break
                daemon.foreman.once = True  # no run is waited for any longer: what is due at their ends is due now
                continue
            connections = [child.connection for child in daemon.crew.children if child.connection is not None]
            wait([told.fileno(), daemon.bell.fileno(), *connections], daemon.pause(time.monotonic()))
        return _end(pulse, daemon, told, settings.daemon.grace_seconds)


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


def _beat(pulse: Pulse, daemon: Daemon, status: Status) -> None:
    if not daemon.lock.is_mine():
        raise TakenOver(
            f"{daemon.results.path}: the lock of this daemon was freed or deleted, and another may work here; it ends."
        )
    pulse.beat(status)


def _end(pulse: Pulse, daemon: Daemon, told: Told, grace: float) -> Status:
    """Let jobs under way end, and say which were returned instead."""
    if daemon.crew.working:
        _beat(pulse, daemon, tell(daemon, pulse.started, "stopping", pulse.mode))
    returned = drain(daemon.crew, lambda now: daemon.collect(now, datetime.now(UTC)), told, grace)
    names = ", ".join(f"{job.checkpoint.run} @ {job.checkpoint.step}" for job in returned)
    last = tell(daemon, pulse.started, "stopped", pulse.mode)
    message = "; ".join(
        filter(None, (last.message, f"returned, to be done by the next daemon: {names}" if names else ""))
    )
    last = replace(last, running=(), message=message)
    _beat(pulse, daemon, last)
    return last
