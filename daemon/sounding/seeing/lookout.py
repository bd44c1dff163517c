"""Seeing: one turn over all stores, from listings to verdicts. What changed is returned; nothing is written here."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from sounding.config import Settings, Store
from sounding.deciding.plan import RunView
from sounding.keeping.ledger import Ledger, RunName
from sounding.records import Checkpoint, Examination, Sighting, State
from sounding.seeing.births import Births
from sounding.seeing.mounts import Mounts, Table, mounted
from sounding.seeing.recorded import is_news, recall
from sounding.seeing.roll import Roll, Seen, run_of, written
from sounding.seeing.scan import Scanner
from sounding.seeing.settle import (
    Observed,
    examined,
    may_become_complete_by_waiting,
    observe,
    plausible,
    settle,
    wants_examination,
)

__all__ = ["Examine", "Lookout", "Seen"]

Examine: TypeAlias = Callable[[Sighting, Store], Examination]

_Changes: TypeAlias = dict[str, Sighting | None]  # by path, None for what is there no more

_IN_TURN = 250  # last written checkpoints of so many runs are stat-ed at each look, those of all runs in turn


@dataclass
class Lookout:
    """The daemon's eyes; remembers what it saw, so that a look costs little more than what has changed."""

    settings: Settings
    ledger: Ledger
    examine: Examine
    problems: dict[str, str] = field(default_factory=dict)  # by store
    hidden: frozenset[RunName] = frozenset()  # runs that cannot be looked at: what was seen of them is remembered
    counts: dict[str, Counter[State]] = field(default_factory=dict)  # of what is there now, by store
    unexamined: int = 0  # sightings left for the next turn
    table: Table = mounted
    mounts: Mounts = field(init=False)
    _scanners: dict[str, Scanner] = field(default_factory=dict)
    _roll: Roll = field(default_factory=Roll)
    _births: Births = field(init=False)
    _sources: dict[str, frozenset[str]] = field(init=False)  # of attributes, by store
    _open: dict[RunName, set[str]] = field(default_factory=dict)  # paths whose verdict may change, or is not recorded

    def __post_init__(self) -> None:
        self._births = Births(self.ledger)
        self._sources = {store.name: frozenset(store.attributes) for store in self.settings.stores}
        self.mounts = Mounts(self.settings.stores, self.table)

    def look(
        self, now: float, wall: datetime, *, full: bool = True, touched: Set[str] = frozenset(), budget: float
    ) -> tuple[list[Seen], set[RunName]]:
        """Look at every store once.

        Examines what is new for at most `budget` seconds, newest first, and leaves the rest to the next turn.
        Returns the verdicts that the results do not know, and the runs whose checkpoints changed.
        """
        changes, changed = self._scan(now, full, touched)
        news: list[Seen] = []
        waiting: list[Observed] = []
        later: list[RunName] = []
        for run in {**changes, **self._open}:
            unexamined = self._observe(run, changes.get(run, {}), now, changed)
            if unexamined:
                waiting += unexamined
                later.append(run)
            else:
                news += self._decide(run, now, wall, changed)  # at once, so that what is at rest is soon packed again
        self._examine_some(waiting, now, budget)
        for run in later:
            news += self._decide(run, now, wall, changed)
        return sorted(news, key=lambda seen: written(seen.sighting)), changed

    @property
    def seen(self) -> Mapping[str, Seen]:
        """Everything there is now, by path; gathered from all runs, which takes seconds where there are many."""
        return {seen.sighting.path: seen for seen in self._roll.seen()}

    def may_change_by_waiting(self, now: float) -> bool:
        """Whether some sighting lacks only an examination or quiet time."""
        quiet = self.mounts.quiet
        members = (self._roll.members(run)[p] for run in self._open.keys() - self.hidden for p in self._open[run])
        waiting = (one.observed for one in members if one.seen is not None and one.seen.verdict.state is State.PENDING)
        return any(may_become_complete_by_waiting(one, quiet[one.sighting.store], now) for one in waiting)

    def view(self, run: RunName, *, growing: bool, models: tuple[str, ...]) -> RunView:
        """The run as the planner sees it; its recipe is added by the caller."""
        readable: dict[int, Checkpoint] = {}
        here = [member.seen for member in self._roll.members(run).values() if member.seen is not None]
        for checkpoint in sorted(filter(None, (seen.checkpoint for seen in here)), key=_generation):
            readable[checkpoint.step] = checkpoint
        history = {c.step: c for c in sorted(self.ledger.past(run).history.values(), key=_generation)} | readable
        undecided = sorted(
            seen.sighting.step
            for seen in here
            if seen.verdict.state is State.PENDING and seen.sighting.step is not None
        )
        ascending = tuple(readable[step] for step in sorted(readable))
        return RunView(
            run[0],
            run[1],
            ascending,
            tuple(history[step] for step in sorted(history)),
            tuple(undecided),
            growing,
            models=models,
        )

    def runs(self) -> Iterator[RunName]:
        """Every run of which something is there now."""
        yield from self._roll.runs

    def last_complete(self) -> dict[RunName, str]:
        """The path of the complete checkpoint of each run that was last written."""
        return {run: insight.last_complete for run, insight in self._roll.runs.items() if insight.last_complete}

    def _scan(self, now: float, full: bool, touched: Set[str]) -> tuple[dict[RunName, _Changes], set[RunName]]:
        """What the scanners see that is other than it was, by run, and the runs that can be looked at again."""
        if full:
            self.mounts.renew()
        unsettled = self._roll.last_written(_IN_TURN).union(*self._open.values())
        changes: dict[RunName, _Changes] = {}
        hidden: set[RunName] = set()
        for store in self.settings.stores:
            eye = self._scanners.setdefault(store.name, Scanner(store))
            scan = eye.scan(now, full=full, touched=touched, unsettled=unsettled)
            self.problems[store.name] = scan.problem
            hidden |= {(store.name, run) for run in scan.hidden}
            for path, sighting in scan.seen.items():
                changes.setdefault(run_of(sighting), {})[path] = sighting
            for path, sighting in scan.gone.items():
                changes.setdefault(run_of(sighting), {})[path] = None
        back, self.hidden = self.hidden - hidden, frozenset(hidden)
        return changes, set(back)

    def _observe(self, run: RunName, changes: _Changes, now: float, changed: set[RunName]) -> list[Observed]:
        """Take in what is other than it was; what the examiner is to look at."""
        paths = self._open.setdefault(run, set())
        self._roll.wake(run)
        members = self._roll.members(run)
        for path, sighting in changes.items():
            if sighting is not None:
                before = members[path].observed if path in members else None
                sources = self._sources[sighting.store]
                self._roll.put(recall(self.ledger, observe(before, sighting, now), sources, now))
                paths.add(path)
            elif (dropped := self._roll.drop(run, path)) is not None:
                self._count(dropped.seen, -1)
                changed.add(run)
                paths.discard(path)
        waiting = (members[path].observed for path in paths)
        return [one for one in waiting if run not in self.hidden and wants_examination(one, now)]

    def _decide(self, run: RunName, now: float, wall: datetime, changed: set[RunName]) -> list[Seen]:
        """Judge anew what may have changed of a run; those verdicts that the results do not know."""
        news: list[Seen] = []
        paths = self._open[run]
        self._roll.renew(run)
        if run not in self.hidden:  # else it is judged when it can be looked at again
            members = self._roll.members(run)
            for observed in sorted((members[path].observed for path in paths), key=lambda one: written(one.sighting)):
                seen = self._judge(observed, now, wall)
                known = self._enter(seen)
                if known is None or known.checkpoint != seen.checkpoint or known.verdict.state != seen.verdict.state:
                    changed.add(run)
                is_new = is_news(self.ledger, seen)
                if is_new:
                    news.append(seen)
                if not is_new and seen.verdict.state not in (State.PENDING, State.ABANDONED):
                    paths.discard(seen.sighting.path)
            self._roll.renew(run)
        if not paths:
            del self._open[run]
            self._roll.lay_to_rest(run)
        return news

    def _enter(self, seen: Seen) -> Seen | None:
        """Put what is seen of a path in the place of what was seen before, which is returned."""
        known = self._roll.judge(seen)
        self._count(known, -1)
        self._count(seen, 1)
        return known

    def _count(self, seen: Seen | None, by: int) -> None:
        if seen is not None:
            self.counts.setdefault(seen.sighting.store, Counter())[seen.verdict.state] += by

    def _examine_some(self, waiting: list[Observed], now: float, budget: float) -> None:
        """Examine newest first; the clock is read here because examining is what takes the time."""
        start = time.monotonic()
        waiting.sort(key=lambda observed: written(observed.sighting), reverse=True)
        stores = {store.name: store for store in self.settings.stores}
        self.unexamined = len(waiting)
        for observed in waiting:
            if self.unexamined < len(waiting) and time.monotonic() - start > budget:
                return
            name = observed.sighting.store
            examination = self.mounts.cautious(name, plausible(self.examine(observed.sighting, stores[name])))
            self._roll.put(examined(observed, examination, now + time.monotonic() - start))
            self.unexamined -= 1

    def _judge(self, observed: Observed, now: float, wall: datetime) -> Seen:
        quiet, insight = self.mounts.quiet[observed.sighting.store], self._roll.runs[run_of(observed.sighting)]
        verdict = settle(observed, quiet, insight.newest_complete, now)
        checkpoint = self._births.checkpoint(observed, wall) if verdict.state is State.COMPLETE else None
        return Seen(observed.sighting, verdict, checkpoint, observed.examination)


def _generation(checkpoint: Checkpoint) -> tuple[int, str]:
    return checkpoint.ordinal, checkpoint.checkpoint_id
