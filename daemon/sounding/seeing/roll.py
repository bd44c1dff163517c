"""The roll of what is in sight: every path with its history and the verdict on it, gathered by run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sounding.keeping.drawers import Drawers, RunName
from sounding.records import Checkpoint, Examination, Sighting, State, Verdict
from sounding.seeing.settle import Observed


@dataclass(frozen=True, slots=True)
class Seen:
    """A sighting with the verdict on it, and the checkpoint it is once complete."""

    sighting: Sighting
    verdict: Verdict
    checkpoint: Checkpoint | None = None
    examination: Examination | None = None


@dataclass(slots=True)
class Member:
    """A path of a run."""

    observed: Observed
    seen: Seen | None = None  # None until there is a verdict


@dataclass(slots=True)
class InSight:
    """What follows from all paths of a run together; it is at hand while the paths are packed."""

    newest_complete: int | None = None  # greatest step of a complete one
    last_written: str = ""  # the path that may be overwritten in place
    last_complete: str = ""  # of the paths with a checkpoint, the one that was last written


@dataclass
class Roll:
    """Runs in sight. They are brought up to date by `renew`, once for many changes."""

    runs: dict[RunName, InSight] = field(default_factory=dict)
    _members: Drawers[dict[str, Member]] = field(default_factory=lambda: Drawers(dict))  # by path
    _changed: set[RunName] = field(default_factory=set)
    _turn: int = 0

    def members(self, run: RunName) -> dict[str, Member]:
        """The run's paths; to be read, not to be changed."""
        return self._members.read(run)

    def wake(self, run: RunName) -> None:
        """Keep the run's paths at hand, as something is to be done about them."""
        self._members.hold(run)

    def lay_to_rest(self, run: RunName) -> None:
        """Nothing is to be done about the run any more."""
        self._members.let_go(run)

    def put(self, observed: Observed) -> None:
        """Add a path, or replace what was observed of it."""
        run, path = run_of(observed.sighting), observed.sighting.path
        members = self._members.open(run)
        if path in members:
            members[path].observed = observed
        else:
            members[path] = Member(observed)
        self.runs.setdefault(run, InSight())
        self._changed.add(run)

    def judge(self, seen: Seen) -> Seen | None:
        """Put the verdict on a path in the place of the one before, which is returned."""
        run = run_of(seen.sighting)
        member = self._members.open(run)[seen.sighting.path]
        before, member.seen = member.seen, seen
        if seen != before:
            self._changed.add(run)
        return before

    def drop(self, run: RunName, path: str) -> Member | None:
        """Strike a path off; what was known of it."""
        self._changed.add(run)
        return self._members.open(run).pop(path, None)

    def renew(self, run: RunName) -> None:
        """Work out what follows, if anything has changed; a run without paths is struck off."""
        if run not in self._changed:
            return
        self._changed.discard(run)
        members = self._members.read(run).values()
        if not members:
            self.runs.pop(run, None)
            return
        sightings = [member.observed.sighting for member in members]
        whole = [member.observed.sighting for member in members if member.seen and member.seen.checkpoint]
        self.runs[run] = InSight(
            _newest_complete(members),
            max(sightings, key=written).path,
            max(whole, key=written).path if whole else "",
        )

    def seen(self) -> Iterator[Seen]:
        """Every path with a verdict."""
        for run in list(self.runs):
            yield from (member.seen for member in self.members(run).values() if member.seen is not None)

    def last_written(self, most: int) -> set[str]:
        """The last written path of each of so many runs, of all runs in turn."""
        names = list(self.runs)
        if len(names) <= most:
            return {run.last_written for run in self.runs.values()}
        start = self._turn % len(names)
        self._turn = start + most
        return {self.runs[name].last_written for name in (names + names)[start : start + most]}


def run_of(sighting: Sighting) -> RunName:
    """The run that a path belongs to."""
    return sighting.store, sighting.run


def step_of(observed: Observed) -> int:
    """The step of a complete checkpoint: the path's, else the one found inside."""
    assert observed.examination is not None
    fact = observed.examination.progress.step
    step = observed.sighting.step if fact is None else int(fact.value)
    assert step is not None, "the examiner never calls a sighting without a step complete"
    return step


def written(sighting: Sighting) -> tuple[int, str]:
    """Orders paths by the time they were last written to, by the clock of their file system."""
    return max((file.mtime_ns for file in sighting.stamp), default=0), sighting.path


def _newest_complete(members: Iterable[Member]) -> int | None:
    found = (member.observed for member in members)
    complete = (o for o in found if o.examination is not None and o.examination.verdict.state is State.COMPLETE)
    return max(map(step_of, complete), default=None)
