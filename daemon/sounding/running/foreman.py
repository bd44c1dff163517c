"""Deciding: the plan of every run, made anew when anything it rests on has changed, and what is to be done next."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from sounding.config import Settings, Store
from sounding.contract import Run
from sounding.deciding.pick import Choice, RunPlan, at_risk, choose, suspects
from sounding.deciding.plan import Wish, owed, wanted
from sounding.deciding.policy import patience
from sounding.keeping.ledger import Ledger, RunName
from sounding.keeping.results import HOLDS
from sounding.records import Ending, Hold, Job, Key
from sounding.running.crew import Finished, Survey, Surveyed
from sounding.running.surveys import Surveys
from sounding.running.wholes import Wholes
from sounding.seeing.lookout import Lookout

_RETRY_SECONDS = 1.0  # between two looks at what waits for a retry


@dataclass
class Foreman:
    """Knows what is owed. Nothing of it outlives the process: a new foreman comes to the same plans."""

    settings: Settings
    ledger: Ledger
    lookout: Lookout
    wishes: tuple[Wish, ...]
    once: bool = False  # nothing newer is waited for
    surveys: Surveys = field(default_factory=Surveys)
    wholes: Wholes = field(init=False)
    plans: dict[RunName, RunPlan] = field(default_factory=dict)  # of runs of which something is owed, or to be asked
    planned: set[RunName] = field(default_factory=set)  # every run whose plan is known, though there may be none
    _stale: set[RunName] = field(default_factory=set)  # runs to be planned again
    _unsurveyed: set[RunName] = field(default_factory=set)  # runs whose recipe must be asked first
    _alone: set[Key] = field(default_factory=set)  # keys that a worker died under, to be run alone
    _growing: set[RunName] = field(default_factory=set)  # runs that were still growing when they were planned
    _changed_at: dict[RunName, float] = field(default_factory=dict)
    _next_retry: float = 0.0
    _logs_read: bool = True

    def __post_init__(self) -> None:
        self.wholes = Wholes(self.settings, self.ledger, self.wishes)

    @property
    def owed_tasks(self) -> int:
        """Tasks that are due, those under way included."""
        return sum(len(owed.tasks) for plan in self.plans.values() for owed in plan.everything)

    @property
    def waiting_tasks(self) -> int:
        """Tasks that wait for the delay before their next attempt."""
        return sum(owed.waiting for plan in self.plans.values() for owed in plan.everything)

    @property
    def is_content(self) -> bool:
        """Whether nothing that can be done is due, and nothing remains to be planned."""
        return not (self._stale or self._unsurveyed or any(o.tasks for p in self._reachable() for o in p.everything))

    @property
    def awaits_retry(self) -> bool:
        """Whether something that can be done waits for the delay before its next attempt."""
        return any(owed.waiting for plan in self._reachable() for owed in plan.everything)

    @property
    def has_stale_plans(self) -> bool:
        """Whether some run is to be planned again."""
        return bool(self._stale)

    def notice(self, runs: Iterable[RunName]) -> None:
        """The results know something new of these runs."""
        self._stale.update(runs)

    def notice_sightings(self, runs: Iterable[RunName], now: float) -> None:
        """Checkpoints of these runs came, changed or went."""
        for run in runs:
            self._changed_at[run] = now
            self._stale.add(run)

    def take_survey(self, surveyed: Surveyed, now: float) -> RunName:
        """Take in what a recipe promises; the run it is about."""
        run = self.surveys.take(surveyed.survey, surveyed.sheet, now if surveyed.died else None)
        self._stale.add(run)
        return run

    def take_finished(self, finished: Finished) -> None:
        """Take in how a job ended; its outcomes are in the results already."""
        run = (finished.job.checkpoint.store, finished.job.checkpoint.run)
        keys = {task.key for task in finished.job.tasks}
        if finished.suspects:
            self._alone |= keys
        else:
            self._alone -= keys
        if any(result.ending is Ending.SUPERSEDED for result in finished.results):
            self.surveys.doubt(run)
        self._stale.add(run)

    def replan(self, now: float, wall: datetime, *, logs_read: bool = True) -> None:
        """Bring every plan up to date; until `logs_read`, more is known to come of every run."""
        self._logs_read = logs_read
        if self.waiting_tasks and now >= self._next_retry:
            self._next_retry = now + _RETRY_SECONDS
            self._stale |= {run for run, plan in self.plans.items() if any(o.waiting for o in plan.everything)}
        self._stale |= set(self.lookout.runs()) - self.planned
        self.notice_sightings(self.wholes.read_logs(), now)  # a run that still logs is not at rest
        self._stale |= self._come_to_rest(now) | self.surveys.expired(now)
        stores = self._stores()
        for run in self._stale:
            if run[0] in stores:  # the results may know of stores that the configuration no longer names
                self._keep(run, self._plan(stores[run[0]], run, now, wall))
        self._stale.clear()

    def next_survey(self) -> Survey | None:
        """A recipe to be asked, before which its run is not planned."""
        stores = self._stores()
        while self._unsurveyed:
            run = self._unsurveyed.pop()
            recipe, readable = stores[run[0]].recipe, self.plans[run].readable
            if recipe is None or not readable or run in self.lookout.hidden:
                continue
            survey = self.surveys.ask(recipe, Run(*run, self.ledger.run_attributes(run)), readable[-1])
            if survey is not None:
                return survey
        return None

    def next_choice(self, running: frozenset[Key]) -> Choice | None:
        """What to run next, of all that is not running."""
        return choose(self._reachable(), running, suspects(self.ledger.unsettled, self._alone))

    def job(self, choice: Choice, seq: int) -> Job:
        """Everything that a worker must know to measure the choice."""
        run = (choice.checkpoint.store, choice.checkpoint.run)
        store, attributes = self._stores()[run[0]], self.ledger.run_attributes(run)
        sheet = None if store.recipe is None else self.surveys.answer(store.recipe, Run(*run, attributes))
        return Job(
            seq=seq,
            checkpoint=choice.checkpoint,
            tasks=choice.tasks,
            others=choice.others,
            attributes=attributes,
            recipe=None if store.recipe is None else str(store.recipe),
            recipe_sheet=sheet,
            passes=self.settings.passes,
            models=store.models,
            device=self.settings.daemon.device,
            headroom=self.settings.daemon.gpu_headroom,
            run_input=self.wholes.input(run, choice.tasks, self.plans[run].readable) if choice.of_run else None,
            hold=self._hold(seq) if self._may_vanish(store, run) and not choice.of_run else None,
        )

    def _hold(self, seq: int) -> Hold:
        """Room for a job's copies: its worker's share."""
        settings = self.settings
        share = settings.holds_max // settings.daemon.workers
        return Hold(str(settings.results / HOLDS / f"{seq:012d}"), share, settings.keep_free_bytes)

    def _may_vanish(self, store: Store, run: RunName) -> bool:
        """Whether checkpoints of the run are to be copied before they are read."""
        if store.hold != "auto":
            return store.hold
        return store.name in self.lookout.mounts.network or bool(self.plans[run].at_risk)

    def _reachable(self) -> Iterator[RunPlan]:
        """Plans under which something is owed, of runs that can be looked at."""
        hidden = self.lookout.hidden
        return (plan for run, plan in self.plans.items() if plan.everything and run not in hidden)

    def _keep(self, run: RunName, plan: RunPlan) -> None:
        """Keep a plan while anything follows from it; most runs are at rest, and planned anew when they wake."""
        self.planned.add(run)
        if plan.everything or run in self._unsurveyed:
            self.plans[run] = plan
        else:
            self.plans.pop(run, None)

    def _stores(self) -> dict[str, Store]:
        return {store.name: store for store in self.settings.stores}

    def _come_to_rest(self, now: float) -> set[RunName]:
        """Runs that have just stopped growing, where something waits for that."""
        waiting = any(wish.schedule.last or wish.sheet.against == "last" for wish in self.wishes)
        if not self._logs_read or not (waiting or self.wholes.any_wanted):
            return set()
        resting = {run for run in self._growing if not self._is_growing(run, now)}
        self._growing -= resting
        return resting

    def _is_growing(self, run: RunName, now: float) -> bool:
        quiet = now - self._changed_at.get(run, now)
        return not self._logs_read or (not self.once and quiet < self.wholes.rests_after(run))

    def _plan(self, store: Store, run: RunName, now: float, wall: datetime) -> RunPlan:
        view = self.lookout.view(run, growing=self._is_growing(run, now), models=tuple(store.models) or ("",))
        view = replace(view, networks=store.models)
        if view.growing:
            self._growing.add(run)
        self._unsurveyed.discard(run)
        if view.readable and store.recipe is not None and any(wish.sheet.needs_recipe for wish in self.wishes):
            sheet = self.surveys.answer(store.recipe, Run(*run, self.ledger.run_attributes(run)))
            if sheet is None:
                self._unsurveyed.add(run)
                return RunPlan(view.readable, {})
            view = replace(view, recipe=sheet)
        outcomes = self.ledger.outcomes(run)
        wants = wanted(view, self.wishes, outcomes, self.settings.passes)
        one_by_one = owed(wants, outcomes, patience(self.settings), wall)
        whole = self.wholes.plan(view, one_by_one.values(), wall)
        return RunPlan(view.readable, one_by_one, whole, at_risk(view.readable, view.history))
