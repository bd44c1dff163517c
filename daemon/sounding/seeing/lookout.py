"""Seeing: one turn over all stores, from listings to verdicts. What changed is returned; nothing is written here."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from sounding.config import Settings, Store
from sounding.deciding.plan import RunView, checkpoint_identity
from sounding.keeping.ledger import Ledger, RunName
from sounding.records import Checkpoint, Examination, Sighting, State, Verdict
from sounding.seeing.births import Births
from sounding.seeing.mounts import Mounts, Table, mounted
from sounding.seeing.roll import InSight, Roll, run_of, step_of, written
from sounding.seeing.scan import Scan, Scanner
from sounding.seeing.settle import (
    Observed,
    examined,
    may_become_complete_by_waiting,
    observe,
    plausible,
    settle,
    wants_examination,
)

Examine: TypeAlias = Callable[[Sighting, Store], Examination]

_IN_TURN = 250  # last written checkpoints of so many runs are stat-ed at each look, those of all runs in turn


@dataclass(frozen=True, slots=True)
class Seen:
    """A sighting with the verdict on it, and the checkpoint it is once complete."""

    sighting: Sighting
    verdict: Verdict
    checkpoint: Checkpoint | None = None
    examination: Examination | None = None


@dataclass
class Lookout:
    """The daemon's eyes; remembers what it saw, so that a look costs little more than what has changed."""

    settings: Settings
    ledger: Ledger
    examine: Examine
    seen: dict[str, Seen] = field(default_factory=dict)  # by path: what is there now
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
    _open: set[str] = field(default_factory=set)  # paths with a verdict that may change, or that is not recorded

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
        paths, changed = self._observe(now, full, touched)
        paths = self._in_sight(paths | self._open)
        self._examine_some(paths, now, budget)
        self._roll.renew()
        news: list[Seen] = []
        for observed in sorted((self._roll.observed[path] for path in paths), key=written):
            path = observed.sighting.path
            known, seen = self.seen.get(path), self._judge(observed, now, wall)
            self._enter(path, seen)
            if known is None or known.checkpoint != seen.checkpoint or known.verdict.state != seen.verdict.state:
                changed.add(run_of(observed))
            is_news = self._is_news(seen)
            if is_news:
                news.append(seen)
            if is_news or seen.verdict.state in (State.PENDING, State.ABANDONED):
                self._open.add(path)
            else:
                self._open.discard(path)
        return news, changed

    def may_change_by_waiting(self, now: float) -> bool:
        """Whether some sighting lacks only an examination or quiet time."""
        quiet = self.mounts.quiet
        waiting = [self._roll.observed[path] for path in self._in_sight(self._pending())]
        return any(may_become_complete_by_waiting(one, quiet[one.sighting.store], now) for one in waiting)

    def view(self, run: RunName, *, growing: bool, models: tuple[str, ...]) -> RunView:
        """The run as the planner sees it; its recipe is added by the caller."""
        here = [self.seen[path] for path in self._roll.runs.get(run, InSight()).paths]
        readable: dict[int, Checkpoint] = {}
        for checkpoint in sorted(filter(None, (seen.checkpoint for seen in here)), key=_generation):
            readable[checkpoint.step] = checkpoint
        history = {c.step: c for c in sorted(self.ledger.history.get(run, {}).values(), key=_generation)} | readable
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

    def _observe(self, now: float, full: bool, touched: Set[str]) -> tuple[set[str], set[RunName]]:
        """Take in what the scanners see: paths that are new or other, and runs that lost some or came back."""
        paths: set[str] = set()
        runs: set[RunName] = set()
        if full:
            self.mounts.renew()
        unsettled = self._open | self._roll.last_written(_IN_TURN)
        hidden: set[RunName] = set()
        for store in self.settings.stores:
            scan = self._scan(store, now, full, touched, unsettled)
            hidden |= {(store.name, run) for run in scan.hidden}
            for path in scan.changed:
                sighting, before = scan.sightings.get(path), self._roll.observed.get(path)
                if sighting is not None:
                    self._roll.put(self._recall(observe(before, sighting, now), now))
                    paths.add(path)
                elif before is not None:
                    runs.add(run_of(before))
                    self._roll.drop(path)
                    self._open.discard(path)
                    self._enter(path, None)
        runs |= self.hidden - hidden
        self.hidden = frozenset(hidden)
        return paths, runs

    def _in_sight(self, paths: set[str]) -> set[str]:
        """The paths of runs that can be looked at now; the others are neither examined nor judged anew."""
        hidden = self.hidden
        return {p for p in paths if run_of(self._roll.observed[p]) not in hidden} if hidden else paths

    def _enter(self, path: str, seen: Seen | None) -> None:
        """Put what is seen of a path in the place of what was seen before."""
        for known, by in ((self.seen.pop(path, None), -1), (seen, 1)):
            if known is not None:
                self.counts.setdefault(known.sighting.store, Counter())[known.verdict.state] += by
        if seen is not None:
            self.seen[path] = seen

    def _scan(self, store: Store, now: float, full: bool, touched: Set[str], unsettled: Set[str]) -> Scan:
        eye = self._scanners.setdefault(store.name, Scanner(store))
        scan = eye.scan(now, full=full, touched=touched, unsettled=unsettled)
        self.problems[store.name] = scan.problem
        return scan

    def _pending(self) -> set[str]:
        return {path for path in self._open if self.seen[path].verdict.state is State.PENDING}

    def _recall(self, observed: Observed, now: float) -> Observed:
        """Spare the examiner what was recorded of the same stamp before a restart.

        Only complete checkpoints are recalled: this version may understand what an earlier one called broken.
        """
        recorded = self.ledger.recognise(observed.sighting)
        if observed.examination is not None or recorded is None or recorded.checkpoint is None:
            return observed
        sighting, checkpoint = observed.sighting, recorded.checkpoint
        if recorded.run != run_of(observed) or sighting.step not in (None, checkpoint.step):
            return observed  # the pattern has changed since
        if not self._sources[sighting.store] <= recorded.asked:
            return observed  # more attributes are asked for
        recalled = Examination(
            recorded.verdict,
            format=checkpoint.format,
            fingerprint=checkpoint.fingerprint,
            progress=checkpoint.progress,
            asked=tuple(sorted(recorded.asked)),
        )
        return examined(observed, recalled, now)

    def _examine_some(self, paths: Set[str], now: float, budget: float) -> None:
        """Examine what wants it, newest first; the clock is read here because examining is what takes the time."""
        start = time.monotonic()
        waiting = [seen for seen in (self._roll.observed[path] for path in paths) if wants_examination(seen, now)]
        waiting.sort(key=written, reverse=True)
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
        quiet, newest = self.mounts.quiet[observed.sighting.store], self._roll.runs[run_of(observed)].newest_complete
        verdict = settle(observed, quiet, newest, now)
        checkpoint = self._identify(observed, wall) if verdict.state is State.COMPLETE else None
        return Seen(observed.sighting, verdict, checkpoint, observed.examination)

    def _identify(self, observed: Observed, wall: datetime) -> Checkpoint:
        sighting, examination = observed.sighting, observed.examination
        assert examination is not None
        step = step_of(observed)
        identity = checkpoint_identity(sighting.store, sighting.run, step, examination.fingerprint)
        ordinal, first_seen = self._births.of(run_of(observed), identity, wall)
        return Checkpoint(
            identity,
            sighting.store,
            sighting.run,
            step,
            sighting.path,
            examination.format,
            examination.fingerprint,
            sighting.stamp,
            ordinal,
            first_seen,
            examination.progress,
        )

    def _is_news(self, seen: Seen) -> bool:
        """Whether the results do not know this yet; a growing file is news once, not at every block."""
        recorded = self.ledger.recorded.get(seen.sighting.path)
        if recorded is None or recorded.verdict.state is not seen.verdict.state:
            return True
        if seen.checkpoint is not None and recorded.stamp != seen.sighting.stamp:
            return True
        return seen.examination is not None and not recorded.asked.issuperset(seen.examination.asked)


def _generation(checkpoint: Checkpoint) -> tuple[int, str]:
    return checkpoint.ordinal, checkpoint.checkpoint_id
