"""The daemon: one turn sees, decides, runs and records; everything else is waiting for the next turn.

A turn takes the time as an argument and can be called by hand. What is owed is never stored: it is what the plan
says when results and stores are looked at again.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sounding.config import Settings
from sounding.keeping.ledger import Ledger
from sounding.keeping.requests import read_requests
from sounding.keeping.results import ResultsDirectory
from sounding.records import Catalogue
from sounding.running.clerk import Clerk
from sounding.running.crew import Crew, Surveyed
from sounding.running.disk import Disk
from sounding.running.drift import Drift
from sounding.running.foreman import Foreman
from sounding.running.journal import Journal
from sounding.running.lock import Lock
from sounding.running.narrate import say_finished
from sounding.running.postponed import Postponed
from sounding.seeing.lookout import Lookout
from sounding.seeing.watch import Bell, Watch

_EXAMINE_BUDGET = 0.25  # seconds of a turn
_REST = 3.0  # rest after a look, as a multiple of what the look took
_BUSY_PAUSE = 0.05  # seconds between turns while workers are busy, whose memory and deadlines are to be kept
_TIDY_SECONDS = 10.0
_FOLD_AGAIN = 300.0  # seconds after folding was refused


@dataclass
class Daemon:
    """Everything one daemon holds; made by `service.running`."""

    settings: Settings
    results: ResultsDirectory
    ledger: Ledger
    journal: Journal
    lookout: Lookout
    foreman: Foreman
    crew: Crew
    catalogue: Catalogue
    bell: Bell
    watch: Watch
    lock: Lock
    clerk: Clerk
    busy_at: float = 0.0  # monotonic time of the last turn in which anything happened
    disk: Disk = field(init=False)
    postponed: Postponed = field(default_factory=Postponed)
    _troubles: dict[str, str] = field(default_factory=dict)  # what a person should know now, by where it came from
    _drift: Drift = field(default_factory=Drift)
    _touched: set[str] = field(default_factory=set)  # directories that events named
    _next_look: float = 0.0
    _rested: float = 0.0  # no look before: a busy store must not make the daemon busy
    _next_full: float = 0.0
    _next_tidy: float = 0.0
    _taken: set[Path] = field(default_factory=set)  # requests that were carried out but could not be deleted
    _folder: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "folding"))
    _folding: Future[str | None] | None = None  # a large fold takes seconds, which no job should wait for

    def __post_init__(self) -> None:
        self.disk = Disk(self.results, self.settings.keep_free_bytes)

    def tick(self, now: float, wall: datetime) -> None:
        """One turn; `now` is monotonic seconds, `wall` is UTC.

        While the results cannot be written, nothing is begun: everything unfinished stays owed.
        """
        try:
            if self.disk.look(now):
                self.foreman.notice(self.ledger.refresh())  # what was published last may not have been read
            looked = self._look(now, wall)
            self._take_results(now, wall)
            if not self.disk.may_begin(now):
                return
            self._take_requests(wall)
            self.foreman.replan(now, wall, logs_read=self.clerk.is_content)
            self._dispatch(now)
            self._read_logs(now, looked)
            self._tidy(now, wall)
        except OSError as error:  # a full disk, or a lost mount
            self.disk.refused(error, now)

    def collect(self, now: float, wall: datetime) -> None:
        """Publish what has ended, and begin nothing: the last turns of a daemon that was told to end."""
        try:
            self._take_results(now, wall)
        except OSError as error:
            self.disk.refused(error, now)

    @property
    def message(self) -> str:
        """What a person should know now; empty when all is well."""
        return "; ".join(filter(None, (self.disk.problem, *self._troubles.values())))

    def is_idle(self, now: float) -> bool:
        """Whether nothing is under way, due, or about to become complete by waiting alone."""
        return (
            self.foreman.is_content
            and not self.crew.working
            and not self.lookout.unexamined
            and not self.lookout.may_change_by_waiting(now)
            and self.clerk.is_content
        )

    def pause(self, now: float) -> float:
        """Seconds until a turn is due again if nothing rings before."""
        if self.crew.busy:
            return _BUSY_PAUSE
        may_begin = self.disk.may_begin(now)
        if self.lookout.unexamined or (self.foreman.has_stale_plans and may_begin):
            return 0.0
        clerk = self.clerk.pause(now) if may_begin else self.settings.daemon.scan_seconds
        wake = self._rested if self._touched else self._next_look
        return max(0.0, min(wake - now, clerk, self.settings.daemon.scan_seconds))

    def close(self) -> None:
        """Wait for a folding under way."""
        self._folder.shutdown()

    def _look(self, now: float, wall: datetime) -> bool:
        """See what there is, if it is time; whether the stores were listed."""
        self._touched |= self.bell.answer()
        if self.bell.has_lost():
            self._next_look = self._next_full = now
        due = self._touched or now >= self._next_look or self.lookout.unexamined
        if not due or now < self._rested:
            return False
        full = now >= self._next_full
        if full:
            self._next_full = now + self.settings.daemon.full_scan_seconds
        self._subscribe()
        start = time.monotonic()
        touched, self._touched = frozenset(self._touched), set()
        news, changed = self.lookout.look(now, wall, full=full, touched=touched, budget=_EXAMINE_BUDGET)
        self._next_look = now + self.settings.daemon.scan_seconds
        if not self.lookout.unexamined:
            self._rested = now + _REST * (time.monotonic() - start)
        self.foreman.notice_sightings(changed, now)
        self.clerk.notice(changed)
        if changed:
            self.busy_at = now
        if news and self.disk.may_begin(now):  # what is not written down stays news
            self.journal.write_sightings(news, wall)
            self._refresh()
        return True

    def _subscribe(self) -> None:
        networks = self.lookout.mounts.network  # where events tell only of what this host does
        for store in self.settings.stores if self.settings.daemon.events else ():
            if store.name not in networks:
                self._tell(f"events of {store.name}", self.watch.add(store.path))

    def _take_results(self, now: float, wall: datetime) -> None:
        for ended in self.crew.poll(now, publish=self.disk.may_publish(now)):
            self.busy_at = now
            if not isinstance(ended, Surveyed):
                self._refresh()
                self.foreman.take_finished(ended)
                self.postponed.take(ended, now)
                self._tell("device", self.postponed.reason)
                say_finished(ended)
                continue
            run = self.foreman.take_survey(ended, now)
            try:
                self.journal.write_attributes(run, ended.sheet.attributes, wall)
            except OSError:
                self.foreman.surveys.doubt(run)  # asked again when the results can be written
                raise
            self._refresh()

    def _take_requests(self, wall: datetime) -> None:
        for path, request in read_requests(self.results.path):
            if path in self._taken:
                continue
            if isinstance(request, str):
                self._tell("requests", request)
            else:
                self.journal.write_redo(request, wall)
                self._refresh()
            self._taken.add(path)  # deleting it may fail, and then it must not be carried out again and again
            path.unlink(missing_ok=True)
            self._taken.discard(path)

    def _dispatch(self, now: float) -> None:
        while (child := self.crew.idle()) is not None:
            survey = self.foreman.next_survey()
            if survey is not None:
                self.crew.begin_survey(child, survey, now)
                continue
            running = frozenset(task.key for job, _ in self.crew.jobs() for task in job.tasks) | self.postponed.keys(
                now
            )
            choice = self.foreman.next_choice(running)
            if choice is None:
                return
            self.busy_at = now
            job = self.foreman.job(choice, self.journal.next_seq())
            self.crew.begin_job(child, job, self.catalogue.plugins, now)

    def _read_logs(self, now: float, looked: bool) -> None:
        """Copy what was logged; not in a turn that listed the stores, as no directory is listed twice in one."""
        if looked:
            return
        if self.clerk.turn(now, self.lookout):
            self.busy_at = now
        self._tell("logs", self.clerk.problem)

    def _tidy(self, now: float, wall: datetime) -> None:
        if now < self._next_tidy:
            return
        self._next_tidy = now + _TIDY_SECONDS
        if self._folding is not None:
            if not self._folding.done():
                return
            folding, self._folding = self._folding, None
            try:
                folded = folding.result()
            except OSError as error:  # the disk has room for jobs, perhaps, and none for a copy of many
                self._tell("folding", f"small files stay as they are for now: {error}")
                self._next_tidy = now + _FOLD_AGAIN
                return
            self._tell("folding", "")
            if folded is not None:
                self.ledger.folded(folded)
        if self._drift.is_trusted(now, wall, self.results.grace.total_seconds()):
            self.results.delete_replaced(wall)
        self._folding = self._folder.submit(self.results.fold, wall)

    def _refresh(self) -> None:
        """Read what was just published."""
        self.disk.wrote()
        self.foreman.notice(self.ledger.refresh())

    def _tell(self, source: str, trouble: str) -> None:
        if trouble:
            self._troubles[source] = trouble
        else:
            self._troubles.pop(source, None)
