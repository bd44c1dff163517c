"""Seeing: one turn over all stores, from listings to verdicts. What changed is returned; nothing is written here."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from sounding.config import Settings, Store
from sounding.ledger import Ledger, RunName
from sounding.plan import RunView, checkpoint_identity
from sounding.records import Checkpoint, Examination, Sighting, State, Verdict
from sounding.scan import Scan, Scanner
from sounding.settle import (
    Observed,
    examined,
    may_become_complete_by_waiting,
    observe,
    settle,
    wants_examination,
)

type_Examine = Callable[[Sighting, Store], Examination]


@dataclass(frozen=True, slots=True)
class Seen:
    """A sighting with the verdict on it, and the checkpoint it is once complete."""

    sighting: Sighting
    verdict: Verdict
    checkpoint: Checkpoint | None = None
    examination: Examination | None = None


@dataclass
class Lookout:
    """The daemon's eyes; remembers what it saw, so that the next look is cheap and quiet time can be told."""

    settings: Settings
    ledger: Ledger
    examine: type_Examine
    seen: dict[str, Seen] = field(default_factory=dict)  # by path: what is there now
    problems: dict[str, str] = field(default_factory=dict)  # by store
    unexamined: int = 0  # sightings left for the next turn
    _scanners: dict[str, Scanner] = field(default_factory=dict)
    _observed: dict[str, Observed] = field(default_factory=dict)
    _newest: dict[RunName, int] = field(default_factory=dict)
    _ordinals: dict[RunName, int] = field(default_factory=dict)  # the greatest given so far

    def look(
        self, now: float, wall: datetime, *, full: bool = True, touched: frozenset[str] = frozenset(), budget: float
    ) -> tuple[list[Seen], set[RunName]]:
        """Look at every store once.

        Examines what is new for at most `budget` seconds, newest first, and leaves the rest to the next turn.
        Returns the verdicts that are news, and the runs whose checkpoints changed.
        """
        self._observed = self._observe(now, full, touched)
        self._examine_some(budget)
        self._newest = self._newest_complete()
        before, self.seen = self.seen, {}
        news: list[Seen] = []
        changed: set[RunName] = set()
        for path, observed in sorted(self._observed.items(), key=lambda item: _written(item[1])):
            known = before.get(path)
            seen = self._judge(observed, known, now, wall)
            self.seen[path] = seen
            if known is None or known.checkpoint != seen.checkpoint or known.verdict.state != seen.verdict.state:
                changed.add((seen.sighting.store, seen.sighting.run))
                if self._is_news(seen):
                    news.append(seen)
        for path in before.keys() - self.seen.keys():
            changed.add((before[path].sighting.store, before[path].sighting.run))
        return news, changed

    def may_change_by_waiting(self, now: float) -> bool:
        """Whether some sighting lacks only an examination or quiet time."""
        quiet = {store.name: store.quiet_seconds for store in self.settings.stores}
        return any(
            may_become_complete_by_waiting(observed, quiet[observed.sighting.store], now)
            for path, observed in self._observed.items()
            if self.seen[path].verdict.state is State.PENDING
        )

    def view(self, run: RunName, *, growing: bool, models: tuple[str, ...]) -> RunView:
        """The run as the planner sees it; its recipe is added by the caller."""
        here = [seen for seen in self.seen.values() if (seen.sighting.store, seen.sighting.run) == run]
        readable: dict[int, Checkpoint] = {}
        for checkpoint in sorted(filter(None, (seen.checkpoint for seen in here)), key=_generation):
            readable[checkpoint.step] = checkpoint
        history = {c.step: c for c in sorted(self.ledger.history.get(run, {}).values(), key=_generation)} | readable
        undecided = tuple(
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
            undecided,
            growing,
            models=models,
        )

    def runs(self) -> Iterator[RunName]:
        """Every run of which something is there now."""
        yield from {(seen.sighting.store, seen.sighting.run): None for seen in self.seen.values()}

    def _observe(self, now: float, full: bool, touched: frozenset[str]) -> dict[str, Observed]:
        observed: dict[str, Observed] = {}
        for store in self.settings.stores:
            scan = self._scan(store, now, full, touched)
            for path, sighting in scan.sightings.items():
                observed[path] = self._recall(observe(self._observed.get(path), sighting, now), now)
        return observed

    def _scan(self, store: Store, now: float, full: bool, touched: frozenset[str]) -> Scan:
        scanner = self._scanners.setdefault(store.name, Scanner(store))
        newest = set(self._newest_paths())
        scan = scanner.scan(now, full=full, touched=touched, unsettled=lambda path: self._is_open(path, newest))
        self.problems[store.name] = scan.problem
        return scan

    def _newest_paths(self) -> Iterator[str]:
        """The last written checkpoint of each run: the one that may be overwritten in place."""
        newest: dict[RunName, Observed] = {}
        for observed in self._observed.values():
            run = (observed.sighting.store, observed.sighting.run)
            if run not in newest or _written(newest[run]) < _written(observed):
                newest[run] = observed
        return (observed.sighting.path for observed in newest.values())

    def _is_open(self, path: str, newest: set[str]) -> bool:
        seen = self.seen.get(path)
        return seen is None or path in newest or seen.verdict.state is State.PENDING

    def _recall(self, observed: Observed, now: float) -> Observed:
        """Spare the examiner what was recorded of the same stamp before a restart."""
        if observed.examination is not None:
            return observed
        recorded = self.ledger.recognise(observed.sighting)
        if recorded is None or recorded.verdict.state not in (State.COMPLETE, State.BROKEN):
            return observed
        sighting, checkpoint = observed.sighting, recorded.checkpoint
        step = None if checkpoint is None else checkpoint.step
        if recorded.run != (sighting.store, sighting.run) or (sighting.step is not None and sighting.step != step):
            return observed  # the pattern has changed since
        recalled = Examination(recorded.verdict)
        if checkpoint is not None:
            recalled = Examination(
                recorded.verdict,
                format=checkpoint.format,
                fingerprint=checkpoint.fingerprint,
                progress=checkpoint.progress,
            )
        return examined(observed, recalled, now)

    def _examine_some(self, budget: float) -> None:
        """Examine what wants it, newest first; the clock is read here because examining is what takes the time."""
        start = time.monotonic()
        waiting = [path for path, observed in self._observed.items() if wants_examination(observed, start)]
        waiting.sort(key=lambda path: _written(self._observed[path]), reverse=True)
        stores = {store.name: store for store in self.settings.stores}
        for count, path in enumerate(waiting):
            if count and time.monotonic() - start > budget:
                self.unexamined = len(waiting) - count
                return
            observed = self._observed[path]
            examination = self.examine(observed.sighting, stores[observed.sighting.store])
            self._observed[path] = examined(observed, examination, time.monotonic())
        self.unexamined = 0

    def _newest_complete(self) -> dict[RunName, int]:
        newest: dict[RunName, int] = {}
        for observed in self._observed.values():
            examination, sighting = observed.examination, observed.sighting
            if examination is None or examination.verdict.state is not State.COMPLETE:
                continue
            step = _step(observed)
            run = (sighting.store, sighting.run)
            newest[run] = max(newest.get(run, step), step)
        return newest

    def _judge(self, observed: Observed, known: Seen | None, now: float, wall: datetime) -> Seen:
        sighting = observed.sighting
        run = (sighting.store, sighting.run)
        quiet = next(store.quiet_seconds for store in self.settings.stores if store.name == sighting.store)
        verdict = settle(observed, quiet, self._newest.get(run), now)
        if verdict.state is not State.COMPLETE:
            return Seen(sighting, verdict, None, observed.examination)
        return Seen(sighting, verdict, self._identify(observed, known, wall), observed.examination)

    def _identify(self, observed: Observed, before: Seen | None, wall: datetime) -> Checkpoint:
        sighting, examination = observed.sighting, observed.examination
        assert examination is not None
        run, step = (sighting.store, sighting.run), _step(observed)
        identity = checkpoint_identity(sighting.store, sighting.run, step, examination.fingerprint)
        known = self.ledger.history.get(run, {}).get(identity)
        if known is None and before is not None and before.checkpoint is not None:
            known = before.checkpoint if before.checkpoint.checkpoint_id == identity else None
        ordinal, first_seen = (self._next_ordinal(run), wall) if known is None else (known.ordinal, known.first_seen)
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

    def _next_ordinal(self, run: RunName) -> int:
        recorded = max((known.ordinal for known in self.ledger.history.get(run, {}).values()), default=-1)
        self._ordinals[run] = max(self._ordinals.get(run, -1), recorded) + 1
        return self._ordinals[run]

    def _is_news(self, seen: Seen) -> bool:
        """Whether the results do not know this yet; a growing file is news once, not at every block."""
        recorded = self.ledger.recorded.get(seen.sighting.path)
        if recorded is None or recorded.verdict.state is not seen.verdict.state:
            return True
        return seen.checkpoint is not None and recorded.stamp != seen.sighting.stamp


def _step(observed: Observed) -> int:
    assert observed.examination is not None
    fact = observed.examination.progress.step
    step = observed.sighting.step if fact is None else int(fact.value)
    assert step is not None, "the examiner never calls a sighting without a step complete"
    return step


def _written(observed: Observed) -> int:
    return max((file.mtime_ns for file in observed.sighting.stamp), default=0)


def _generation(checkpoint: Checkpoint) -> tuple[int, str]:
    return checkpoint.ordinal, checkpoint.checkpoint_id
