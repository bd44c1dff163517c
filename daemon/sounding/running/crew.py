"""Running: jobs on the workers, the marks they leave, and the one place from which results are published.

A job's mark is written before it starts: the rows to publish should the daemon itself die under it. The worker
writes another file; whichever of the two is renamed into place is the outcome, never both. A worker that cannot write
is no plugin's fault: its job is returned, and the disk is waited for.
"""

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sounding.contract import Run
from sounding.errors import SoundingError
from sounding.keeping.results import ResultsDirectory
from sounding.records import Checkpoint, Ending, Job, PluginSheet, RecipeSheet
from sounding.running.dispatch import Child, Death, Limits
from sounding.running.holding import patience, release
from sounding.running.outbox import Finished, Outbox, publish_marks
from sounding.running.worker import Answer, Call, NotNow
from sounding.stamps import change_of

_FALSE_STARTS = 3

__all__ = ["Crew", "Finished", "Survey", "Surveyed", "Warming", "publish_marks"]


@dataclass(frozen=True, slots=True)
class Survey:
    """Asking a recipe what it promises for one run; the run's attributes are part of the question."""

    recipe: str
    run: Run
    checkpoint: Checkpoint | None = None  # for the attributes that the recipe reads off a checkpoint


@dataclass(frozen=True, slots=True)
class Warming:
    """A fresh worker imports what jobs need, so that the first job does not wait for it."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A survey that ended."""

    survey: Survey
    sheet: RecipeSheet
    died: bool = False  # the worker died over it


@dataclass
class Crew:
    """The workers of one daemon."""

    results: ResultsDirectory
    children: list[Child]
    limits: Limits
    epoch: str
    busy: dict[str, tuple[Job | Survey | Warming, datetime]] = field(default_factory=dict)  # by child's name
    false_starts: int = 0  # workers that died as they started, in a row
    outbox: Outbox = field(init=False)
    _refused: OSError | None = None  # what a worker met that could not write

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.results, self.epoch)

    def start(self, now: float) -> None:
        """Start every worker that is not running."""
        for child in self.children:
            if not child.alive and child.name not in self.busy:
                self.busy[child.name] = (Warming(), datetime.now(UTC))
                child.send(Call("sounding.running.worker:warm", ()), self.limits, now)

    def stop(self) -> None:
        """End every worker; what they were doing is returned: no attempt is counted, and it is owed again."""
        for child in self.children:
            child.stop()
        for job, _ in list(self.jobs()):
            self.outbox.discard(job)
            release(job)
        self.busy.clear()

    def idle(self) -> Child | None:
        """A worker with nothing to do."""
        return next((child for child in self.children if child.name not in self.busy), None)

    @property
    def working(self) -> bool:
        """Whether any job or survey is under way, or waits to be published."""
        return any(True for _ in self.jobs()) or any(isinstance(work, Survey) for work, _ in self.busy.values())

    def jobs(self) -> Iterator[tuple[Job, datetime]]:
        """Jobs under way, with the time they began; those that wait to be published are not over either."""
        yield from ((work, since) for work, since in self.busy.values() if isinstance(work, Job))
        yield from self.outbox.jobs()

    def begin_survey(self, child: Child, survey: Survey, now: float) -> None:
        """Ask a worker to load a recipe and its probe."""
        self.busy[child.name] = (survey, datetime.now(UTC))
        child.send(Call("sounding.recipe:survey", (survey.recipe, survey.run, survey.checkpoint)), self.limits, now)

    def begin_job(self, child: Child, job: Job, sheets: Mapping[str, PluginSheet], now: float) -> None:
        """Leave the job's mark and send it to a worker. Raises OSError when the mark cannot be written."""
        wall = datetime.now(UTC)
        self.outbox.mark(job, wall)
        self.busy[child.name] = (job, wall)
        used = {task.key.plugin: sheets[task.key.plugin] for task in job.tasks}
        temporary = str(self.outbox.temporary(job.seq))
        limits = replace(self.limits, deadline_seconds=self.limits.deadline_seconds + patience(job))
        child.send(Call("sounding.running.worker:perform", (job, temporary, used)), limits, now)

    def poll(self, now: float, *, publish: bool = True) -> Iterator[Finished | Surveyed]:
        """What ended since the last call; results are published here, unless `publish` says to wait.

        Raises OSError when the disk refuses something; everything that waits is tried again by the next call.
        """
        for child in self.children:
            ended = child.poll(now)
            if ended is not None:
                yield from self._take(child, ended)
        self.start(now)
        if self._refused is not None:
            refused, self._refused = self._refused, None
            raise refused
        if publish:
            yield from self.outbox.publish()

    def _take(self, child: Child, ended: Answer | Death) -> Iterator[Finished | Surveyed]:
        work, since = self.busy.pop(child.name)
        if isinstance(work, Job):
            release(work)  # what a worker that died could not delete itself
        if isinstance(work, Survey):
            yield Surveyed(work, _sheet(ended), isinstance(ended, Death))
        elif isinstance(work, Warming):
            self._warmed(ended)
        elif isinstance(ended, Answer) and ended.refused:
            self.outbox.discard(work)
            self._refused = OSError(ended.refused, ended.error)
        elif isinstance(ended, Answer) and isinstance(ended.value, NotNow):
            self.outbox.discard(work)
            yield Finished(work, (), postponed=ended.value.reason)
        else:
            apart = self._end(work, since, ended)
            if apart is not None:
                yield apart

    def _warmed(self, ended: Answer | Death) -> None:
        """A worker is ready, or died as it started: once may be an accident, again and again is not."""
        problem = ended.reason if isinstance(ended, Death) else ended.error
        self.false_starts = self.false_starts + 1 if problem else 0
        if self.false_starts > _FALSE_STARTS:
            raise SoundingError(f"workers cannot start: {problem}.")

    def _end(self, job: Job, since: datetime, ended: Answer | Death) -> Finished | None:
        """Put what came of a job into the outbox; a job that is to be taken apart is finished without."""
        if isinstance(ended, Answer) and not ended.error:
            self.outbox.written(job, ended.value, since)
            return None
        changed = _changed(job)
        if changed is not None:
            ending, reason = changed
        elif isinstance(ended, Answer):
            ending, reason = Ending.FAILED, ended.error
        elif len(job.tasks) > 1:
            self.outbox.discard(job)
            return Finished(job, (), suspects=True)
        elif signal.SIGBUS.name in ended.reason:  # how a mapped file says that it cannot be read
            ending, reason = Ending.GONE, f"bytes of {job.checkpoint.path} could not be read: {ended.reason}"
        else:
            ending, reason = ended.ending, ended.reason
        self.outbox.failed(job, ending, reason, since)
        return None


def _changed(job: Job) -> tuple[Ending, str] | None:
    """Whether a checkpoint of the job is no longer what it was, which clears every plugin of blame."""
    changes = (change_of(checkpoint.path, checkpoint.stamp) for checkpoint in job.sources)
    return next((change for change in changes if change is not None), None)


def _sheet(ended: Answer | Death) -> RecipeSheet:
    if isinstance(ended, Death):
        return RecipeSheet(error=f"the recipe could not be surveyed: {ended.reason}")
    sheet: RecipeSheet = ended.value if not ended.error else RecipeSheet(error=ended.error)
    return sheet
