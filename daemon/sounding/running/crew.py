"""Running: jobs on the workers, the marks they leave, and the one place from which results are published.

A job's mark is written before it starts: the rows to publish should the daemon itself die under it. The worker
writes another file; whichever of the two is renamed into place is the outcome, never both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sounding.keeping.results import ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import outcome_row
from sounding.plugin import Run
from sounding.records import Checkpoint, Ending, Job, Outcome, PluginSheet, RecipeSheet, SoundingError, Task, TaskResult
from sounding.running.dispatch import Child, Death, Limits
from sounding.running.worker import Answer, Call
from sounding.stamps import stamp_of

MARK = ".mark.parquet"
_FALSE_STARTS = 3


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
class Finished:
    """A job that ended: its outcomes are published."""

    job: Job
    results: tuple[TaskResult, ...]
    suspects: bool = False  # a worker died under several tasks: nothing is published, each is to be run alone


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
        for job, _ in self.jobs():
            self._temporary(job.seq).unlink(missing_ok=True)
            self._mark(job.seq).unlink(missing_ok=True)
        self.busy.clear()

    def idle(self) -> Child | None:
        """A worker with nothing to do."""
        return next((child for child in self.children if child.name not in self.busy), None)

    @property
    def working(self) -> bool:
        """Whether any job or survey is under way."""
        return any(not isinstance(work, Warming) for work, _ in self.busy.values())

    def jobs(self) -> Iterator[tuple[Job, datetime]]:
        """Jobs under way, with the time they began."""
        yield from ((work, since) for work, since in self.busy.values() if isinstance(work, Job))

    def begin_survey(self, child: Child, survey: Survey, now: float) -> None:
        """Ask a worker to load a recipe and its probe."""
        self.busy[child.name] = (survey, datetime.now(UTC))
        child.send(Call("sounding.recipe:survey", (survey.recipe, survey.run, survey.checkpoint)), self.limits, now)

    def begin_job(self, child: Child, job: Job, sheets: Mapping[str, PluginSheet], now: float) -> None:
        """Leave the job's mark and send it to a worker."""
        wall = datetime.now(UTC)
        outcomes = [
            outcome_row(_outcome(task, Ending.INTERRUPTED, "the daemon died while this was running", job.seq, wall))
            for task in job.tasks
        ]
        mark = self._mark(job.seq)
        half = mark.with_suffix(".half")
        write_rows(half, outcomes)
        half.rename(mark)
        self.results.at("marked")
        self.busy[child.name] = (job, wall)
        used = {task.key.plugin: sheets[task.key.plugin] for task in job.tasks}
        child.send(
            Call("sounding.running.worker:perform", (job, str(self._temporary(job.seq)), used)), self.limits, now
        )

    def poll(self, now: float) -> Iterator[Finished | Surveyed]:
        """What ended since the last call; results are published here."""
        for child in self.children:
            ended = child.poll(now)
            if ended is None:
                continue
            work, _ = self.busy.pop(child.name)
            if isinstance(work, Survey):
                yield Surveyed(work, _sheet(ended), isinstance(ended, Death))
            elif isinstance(work, Job):
                yield self._finish(work, ended)
            else:
                self._warmed(ended)
        self.start(now)

    def _warmed(self, ended: Answer | Death) -> None:
        """A worker is ready, or died as it started: once may be an accident, again and again is not."""
        problem = ended.reason if isinstance(ended, Death) else ended.error
        self.false_starts = self.false_starts + 1 if problem else 0
        if self.false_starts > _FALSE_STARTS:
            raise SoundingError(f"workers cannot start: {problem}.")

    def _finish(self, job: Job, ended: Answer | Death) -> Finished:
        if isinstance(ended, Answer) and not ended.error:
            return self._publish(job, self._temporary(job.seq), ended.value)
        self._temporary(job.seq).unlink(missing_ok=True)
        changed = _changed(job)
        if changed is not None:
            ending, reason = changed
        elif isinstance(ended, Answer):
            ending, reason = Ending.FAILED, ended.error
        elif len(job.tasks) > 1:
            self._mark(job.seq).unlink()
            return Finished(job, (), suspects=True)
        else:
            ending, reason = ended.ending, ended.reason
        wall = datetime.now(UTC)
        rows = [outcome_row(_outcome(task, ending, reason, job.seq, wall)) for task in job.tasks]
        write_rows(self._temporary(job.seq), rows, self.results.at)
        results = tuple(TaskResult(task, ending, reason) for task in job.tasks)
        return self._publish(job, self._temporary(job.seq), results)

    def _publish(self, job: Job, temporary: Path, results: tuple[TaskResult, ...]) -> Finished:
        self.results.publish(temporary, job.seq)
        self._mark(job.seq).unlink()
        self.results.at("unmarked")
        return Finished(job, results)

    def _temporary(self, seq: int) -> Path:
        return self.results.tmp / tmp_name(self.epoch, seq)

    def _mark(self, seq: int) -> Path:
        return self._temporary(seq).with_suffix(MARK)


def publish_marks(results: ResultsDirectory) -> int:
    """Turn the marks that a dead daemon left into outcomes, and drop those whose job was published; how many died.

    Called before the sweep, by the daemon that holds the lock: no other daemon is alive to own a mark.
    """
    marks = sorted(results.tmp.glob(f"*{MARK}"))
    if not marks:
        return 0
    published = {row["seq"] for row in results.read_rows(results.files(), ("outcome",))}
    died = 0
    for mark in marks:
        seq = int(mark.name.removesuffix(MARK).rpartition("-")[2])
        if seq in published:
            mark.unlink()
        else:
            results.publish(mark, seq)
            died += 1
    return died


def _outcome(task: Task, ending: Ending, reason: str, seq: int, wall: datetime) -> Outcome:
    """The outcome of a task that no worker lived to report."""
    return Outcome(task.key, task.subject, ending, reason, task.attempt, seq, wall, task.excused)


def _changed(job: Job) -> tuple[Ending, str] | None:
    """Whether a checkpoint of the job is no longer what it was, which clears every plugin of blame."""
    for checkpoint in job.sources:
        try:
            stamp = stamp_of(Path(checkpoint.path))
        except FileNotFoundError:
            return Ending.GONE, f"{checkpoint.path} was deleted while it was read"
        except OSError as error:
            return Ending.GONE, f"{checkpoint.path} can no longer be read: {error.strerror}"
        if stamp != checkpoint.stamp:
            return Ending.SUPERSEDED, f"{checkpoint.path} was overwritten while it was read"
    return None


def _sheet(ended: Answer | Death) -> RecipeSheet:
    if isinstance(ended, Death):
        return RecipeSheet(error=f"the recipe could not be surveyed: {ended.reason}")
    sheet: RecipeSheet = ended.value if not ended.error else RecipeSheet(error=ended.error)
    return sheet
