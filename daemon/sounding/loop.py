"""The daemon: one turn sees, decides, runs and records; everything else is waiting for the next turn.

A turn takes the time as an argument and can be called by hand. What is owed is never stored: it is what the plan
says when results and stores are looked at again.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime

from sounding.config import Settings, Store
from sounding.crew import Crew, Finished, Survey, Surveyed
from sounding.journal import Journal
from sounding.ledger import Ledger, RunName
from sounding.lookout import Lookout
from sounding.pick import Choice, RunPlan, choose, suspects
from sounding.plan import Wish, owed, wanted
from sounding.plugin import Run
from sounding.policy import patience
from sounding.records import Catalogue, Ending, Job, Key
from sounding.requests import read_requests
from sounding.results import ResultsDirectory
from sounding.surveys import Surveys
from sounding.watch import Bell, Watch

_EXAMINE_BUDGET = 0.25  # seconds of a turn
_REST = 3.0  # rest after a look, as a multiple of what the look took
_DISK_PAUSE = 5.0  # seconds after the results could not be written
_TIDY_SECONDS = 10.0


@dataclass
class Daemon:
    """Everything one daemon holds; made by `running`."""

    settings: Settings
    results: ResultsDirectory
    ledger: Ledger
    journal: Journal
    lookout: Lookout
    crew: Crew
    catalogue: Catalogue
    wishes: tuple[Wish, ...]
    bell: Bell
    watch: Watch
    once: bool = False
    surveys: Surveys = field(default_factory=Surveys)
    plans: dict[RunName, RunPlan] = field(default_factory=dict)
    message: str = ""
    busy_at: float = 0.0  # monotonic time of the last turn in which anything happened
    _stale: set[RunName] = field(default_factory=set)  # runs to be planned again
    _unsurveyed: set[RunName] = field(default_factory=set)  # runs whose recipe must be asked first
    _alone: set[Key] = field(default_factory=set)  # keys that a worker died under, to be run alone
    _resting: set[RunName] = field(default_factory=set)
    _changed_at: dict[RunName, float] = field(default_factory=dict)
    _touched: set[str] = field(default_factory=set)  # directories that events named
    _next_look: float = 0.0
    _rested: float = 0.0  # no look before: a busy store must not make the daemon busy
    _next_full: float = 0.0
    _next_retry: float = 0.0
    _next_tidy: float = 0.0
    _folder: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "folding"))
    _folding: Future[str | None] | None = None  # a large fold takes seconds, which no job should wait for
    _paused_until: float = 0.0

    def tick(self, now: float, wall: datetime) -> None:
        """One turn; `now` is monotonic seconds, `wall` is UTC."""
        try:
            self._take_requests(wall)
            self._look(now, wall)
            self._take_results(now, wall)
            if now >= self._paused_until:
                self._plan(now, wall)
                self._dispatch(now)
                self._tidy(now, wall)
        except OSError as error:
            # A full disk or a lost mount: nothing was published, so everything unfinished is still owed.
            self.message = f"{self.results.path}: {error.strerror or error}; trying again"
            self._paused_until = now + _DISK_PAUSE

    @property
    def owed_tasks(self) -> int:
        """Tasks that are due, those under way included."""
        return sum(len(owed.tasks) for plan in self.plans.values() for owed in plan.owed.values())

    @property
    def waiting_tasks(self) -> int:
        """Tasks that wait for the delay before their next attempt."""
        return sum(owed.waiting for plan in self.plans.values() for owed in plan.owed.values())

    def is_idle(self, now: float) -> bool:
        """Whether nothing is under way, due, or about to become complete by waiting alone."""
        return not (
            self.crew.working
            or self._stale
            or self._unsurveyed
            or self.owed_tasks
            or self.lookout.unexamined
            or self.lookout.may_change_by_waiting(now)
        )

    def pause(self, now: float) -> float:
        """Seconds until a turn is due again if nothing rings before."""
        if self.crew.busy:
            return 0.05
        if self.lookout.unexamined or self._stale:
            return 0.0
        wake = self._rested if self._touched else self._next_look
        return max(0.0, min(wake - now, self.settings.daemon.scan_seconds))

    def close(self) -> None:
        """Wait for a folding under way."""
        self._folder.shutdown()

    def _take_requests(self, wall: datetime) -> None:
        for path, request in read_requests(self.results.path):
            if isinstance(request, str):
                self.message = request
            else:
                self.journal.write_redo(request, wall)
                self._refresh()
            path.unlink()

    def _look(self, now: float, wall: datetime) -> None:
        self._touched |= self.bell.answer()
        due = self._touched or now >= self._next_look or self.lookout.unexamined
        if not due or now < self._rested:
            return
        full = now >= self._next_full
        if full:
            self._next_full = now + self.settings.daemon.full_scan_seconds
        for store in self.settings.stores if self.settings.daemon.events else ():
            self.message = self.watch.add(store.path) or self.message
        start = time.monotonic()
        touched, self._touched = frozenset(self._touched), set()
        news, changed = self.lookout.look(now, wall, full=full, touched=touched, budget=_EXAMINE_BUDGET)
        self._next_look = now + self.settings.daemon.scan_seconds
        if not self.lookout.unexamined:
            self._rested = now + _REST * (time.monotonic() - start)
        if news:
            self.journal.write_sightings(news, wall)
            self._refresh()
        for run in changed:
            self._changed_at[run] = now
            self.busy_at = now
        self._stale |= changed

    def _take_results(self, now: float, wall: datetime) -> None:
        for ended in self.crew.poll(now):
            self.busy_at = now
            if isinstance(ended, Surveyed):
                self._take_survey(ended, wall)
            else:
                self._take_finished(ended)

    def _take_survey(self, surveyed: Surveyed, wall: datetime) -> None:
        run = self.surveys.take(surveyed.survey, surveyed.sheet)
        self.journal.write_attributes(run, surveyed.sheet.attributes, wall)
        self._refresh()
        self._stale.add(run)

    def _take_finished(self, finished: Finished) -> None:
        run = (finished.job.checkpoint.store, finished.job.checkpoint.run)
        keys = {task.key for task in finished.job.tasks}
        if finished.suspects:
            self._alone |= keys
        else:
            self._alone -= keys
        if any(result.ending is Ending.SUPERSEDED for result in finished.results):
            self.surveys.doubt(run)
        self._refresh()
        self._stale.add(run)

    def _refresh(self) -> None:
        self._stale |= self.ledger.refresh()

    def _plan(self, now: float, wall: datetime) -> None:
        if self.waiting_tasks and now >= self._next_retry:
            self._next_retry = now + 1.0
            self._stale |= {run for run, plan in self.plans.items() if any(o.waiting for o in plan.owed.values())}
        self._stale |= {run for run in self.lookout.runs() if run not in self.plans}
        self._stale |= self._come_to_rest(now)
        stores = {store.name: store for store in self.settings.stores}
        for run in self._stale:
            self.plans[run] = self._plan_run(stores[run[0]], run, now, wall)
        self._stale.clear()

    def _come_to_rest(self, now: float) -> set[RunName]:
        """Runs that have just stopped growing, where a schedule waits for the last checkpoint."""
        if not any(wish.schedule.last or wish.sheet.against == "last" for wish in self.wishes):
            return set()
        resting = {run for run in self.plans if not self._is_growing(run, now)}
        new, self._resting = resting - self._resting, resting
        return new

    def _is_growing(self, run: RunName, now: float) -> bool:
        quiet = now - self._changed_at.get(run, now)
        return not self.once and quiet < self.settings.daemon.idle_seconds

    def _plan_run(self, store: Store, run: RunName, now: float, wall: datetime) -> RunPlan:
        growing = self._is_growing(run, now)
        view = self.lookout.view(run, growing=growing, models=tuple(store.models) or ("",))
        view = replace(view, networks=store.models)
        if view.readable and store.recipe is not None and any(wish.sheet.needs_recipe for wish in self.wishes):
            sheet = self.surveys.answer(store.recipe, Run(*run, self.ledger.run_attributes(run)))
            if sheet is None:
                self._unsurveyed.add(run)
                return RunPlan(view.readable, {})
            view = replace(view, recipe=sheet)
        wants = wanted(view, self.wishes, self.ledger.outcomes, self.settings.passes)
        return RunPlan(view.readable, owed(wants, self.ledger.outcomes, patience(self.settings), wall))

    def _dispatch(self, now: float) -> None:
        stores = {store.name: store for store in self.settings.stores}
        while (child := self.crew.idle()) is not None:
            survey = self._next_survey(stores)
            if survey is not None:
                self.crew.begin_survey(child, survey, now)
                continue
            running = frozenset(task.key for job, _ in self.crew.jobs() for task in job.tasks)
            choice = choose(self.plans.values(), running, suspects(self.ledger.outcomes, self._alone))
            if choice is None:
                return
            self.busy_at = now
            self.crew.begin_job(child, self._job(choice, stores), self.catalogue.plugins, now)

    def _next_survey(self, stores: Mapping[str, Store]) -> Survey | None:
        while self._unsurveyed:
            run = self._unsurveyed.pop()
            recipe = stores[run[0]].recipe
            assert recipe is not None
            newest = self.plans[run].readable[-1]
            survey = self.surveys.ask(recipe, Run(*run, self.ledger.run_attributes(run)), newest)
            if survey is not None:
                return survey
        return None

    def _job(self, choice: Choice, stores: Mapping[str, Store]) -> Job:
        run = (choice.checkpoint.store, choice.checkpoint.run)
        store, attributes = stores[run[0]], self.ledger.run_attributes(run)
        sheet = None if store.recipe is None else self.surveys.answer(store.recipe, Run(*run, attributes))
        return Job(
            seq=self.journal.next_seq(),
            checkpoint=choice.checkpoint,
            tasks=choice.tasks,
            others=choice.others,
            attributes=attributes,
            recipe=None if store.recipe is None else str(store.recipe),
            recipe_sheet=sheet,
            passes=self.settings.passes,
            models=store.models,
            device=self.settings.daemon.device,
        )

    def _tidy(self, now: float, wall: datetime) -> None:
        if now < self._next_tidy:
            return
        self._next_tidy = now + _TIDY_SECONDS
        if self._folding is not None:
            if not self._folding.done():
                return
            folded, self._folding = self._folding.result(), None
            if folded is not None:
                self.ledger.folded(folded)
        self.results.delete_replaced(wall)
        self._folding = self._folder.submit(self.results.fold, wall)
