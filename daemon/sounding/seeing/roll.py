"""The roll of what is in sight: every path with its history, gathered by run."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sounding.keeping.ledger import RunName
from sounding.records import State
from sounding.seeing.settle import Observed


@dataclass
class InSight:
    """The paths of one run that are there now, and what follows from all of them together."""

    paths: set[str] = field(default_factory=set)
    newest_complete: int | None = None  # greatest step of a complete one
    last_written: str = ""  # the path that may be overwritten in place


@dataclass
class Roll:
    """Paths in sight. Runs are brought up to date by `renew`, once for many changes."""

    observed: dict[str, Observed] = field(default_factory=dict)  # by path
    runs: dict[RunName, InSight] = field(default_factory=dict)
    _changed: set[RunName] = field(default_factory=set)
    _turn: int = 0

    def put(self, observed: Observed) -> None:
        """Add a path, or replace what was known of it."""
        path, run = observed.sighting.path, run_of(observed)
        self.observed[path] = observed
        self.runs.setdefault(run, InSight()).paths.add(path)
        self._changed.add(run)

    def drop(self, path: str) -> None:
        """Strike a path off."""
        run = run_of(self.observed.pop(path))
        self.runs[run].paths.discard(path)
        self._changed.add(run)

    def renew(self) -> None:
        """Work out what follows for runs whose paths changed; a run without any is struck off."""
        for run in self._changed:
            members = [self.observed[path] for path in self.runs[run].paths]
            if members:
                self.runs[run].newest_complete = _newest_complete(members)
                self.runs[run].last_written = max(members, key=written).sighting.path
            else:
                del self.runs[run]
        self._changed.clear()

    def last_written(self, most: int) -> set[str]:
        """The last written path of each of so many runs, of all runs in turn."""
        names = list(self.runs)
        if len(names) <= most:
            return {run.last_written for run in self.runs.values()}
        start = self._turn % len(names)
        self._turn = start + most
        return {self.runs[name].last_written for name in (names + names)[start : start + most]}


def run_of(observed: Observed) -> RunName:
    """The run that a path belongs to."""
    return observed.sighting.store, observed.sighting.run


def step_of(observed: Observed) -> int:
    """The step of a complete checkpoint: the path's, else the one found inside."""
    assert observed.examination is not None
    fact = observed.examination.progress.step
    step = observed.sighting.step if fact is None else int(fact.value)
    assert step is not None, "the examiner never calls a sighting without a step complete"
    return step


def written(observed: Observed) -> tuple[int, str]:
    """Orders paths by the time they were last written to, by the clock of their file system."""
    return max((file.mtime_ns for file in observed.sighting.stamp), default=0), observed.sighting.path


def _newest_complete(members: Iterable[Observed]) -> int | None:
    complete = (m for m in members if m.examination is not None and m.examination.verdict.state is State.COMPLETE)
    return max(map(step_of, complete), default=None)
