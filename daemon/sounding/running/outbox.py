"""The outbox: marks of jobs under way, and jobs that have ended and wait for their place among the results.

A full disk may refuse that place for hours. Until it has one, a job counts as under way: it is neither lost nor done
again.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sounding.keeping.results import ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import Row, outcome_row
from sounding.records import Ending, Job, Outcome, Task, TaskResult

MARK = ".mark.parquet"


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that ended: its outcomes are published."""

    job: Job
    results: tuple[TaskResult, ...]
    suspects: bool = False  # a worker died under several tasks: nothing is published, each is to be run alone
    postponed: str = ""  # what the job waits for that was not begun: nothing is published, no attempt is counted


@dataclass(frozen=True, slots=True)
class _Waiting:
    finished: Finished
    since: datetime  # when the job began
    rows: Sequence[Row] = ()  # what no worker lived to write


@dataclass
class Outbox:
    """Writes marks and publishes results; whatever is refused raises OSError, and can be tried again."""

    results: ResultsDirectory
    epoch: str
    _waiting: dict[int, _Waiting] = field(default_factory=dict)  # by seq

    def temporary(self, seq: int) -> Path:
        """Where a worker writes the results of a job."""
        return self.results.tmp / tmp_name(self.epoch, seq)

    def mark(self, job: Job, wall: datetime) -> None:
        """Leave the job's mark: the rows to publish should the daemon die under it."""
        rows = outcome_rows(job, Ending.INTERRUPTED, "the daemon died while this was running", wall)
        mark = self._mark(job.seq)
        half = mark.with_suffix(".half")
        write_rows(half, rows)
        try:
            half.rename(mark)
        except OSError:
            _discard(half)
            raise
        self.results.at("marked")

    def discard(self, job: Job) -> None:
        """Forget the job: no attempt is counted, and it is owed again."""
        self._waiting.pop(job.seq, None)
        _discard(self.temporary(job.seq))
        _discard(self._mark(job.seq))

    def written(self, job: Job, results: tuple[TaskResult, ...], since: datetime) -> None:
        """A worker has written the results of the job."""
        self._waiting[job.seq] = _Waiting(Finished(job, results), since)

    def failed(self, job: Job, ending: Ending, reason: str, since: datetime) -> None:
        """No worker lived to write anything of the job; every task of it ended so."""
        _discard(self.temporary(job.seq))
        results = tuple(TaskResult(task, ending, reason) for task in job.tasks)
        rows = outcome_rows(job, ending, reason, datetime.now(UTC))
        self._waiting[job.seq] = _Waiting(Finished(job, results), since, rows)

    def jobs(self) -> Iterator[tuple[Job, datetime]]:
        """Jobs that wait for their place, with the time they began."""
        yield from ((waiting.finished.job, waiting.since) for waiting in self._waiting.values())

    def publish(self) -> Iterator[Finished]:
        """Publish what waits, oldest first."""
        for seq, waiting in list(self._waiting.items()):
            temporary = self.temporary(seq)
            if waiting.rows:
                write_rows(temporary, waiting.rows, self.results.at)
            elif not temporary.exists():  # somebody emptied `tmp/`
                self.discard(waiting.finished.job)
                continue
            self.results.publish(temporary, seq)
            del self._waiting[seq]
            _discard(self._mark(seq))  # one that stays is recognised as published by the next daemon
            self.results.at("unmarked")
            yield waiting.finished

    def _mark(self, seq: int) -> Path:
        return self.temporary(seq).with_suffix(MARK)


def publish_marks(results: ResultsDirectory) -> int:
    """Turn the marks that a dead daemon left into outcomes, and drop those whose job was published; how many died.

    Called before the sweep, by the daemon that holds the lock: no other daemon is alive to own a mark.
    """
    marks = sorted(results.tmp.glob(f"*{MARK}"))
    if not marks:
        return 0
    published = {row["seq"] for row in results.each_row(results.files(), ("outcome",), ("record", "seq"))}
    died = 0
    for mark in marks:
        seq = int(mark.name.removesuffix(MARK).rpartition("-")[2])
        if seq in published:
            mark.unlink()
        else:
            results.publish(mark, seq)
            died += 1
    return died


def outcome_rows(job: Job, ending: Ending, reason: str, wall: datetime) -> list[Row]:
    """A row for every task of a job, all of which ended in one way."""
    return [outcome_row(_outcome(task, ending, reason, job.seq, wall)) for task in job.tasks]


def _outcome(task: Task, ending: Ending, reason: str, seq: int, wall: datetime) -> Outcome:
    return Outcome(task.key, task.subject, ending, reason, task.attempt, seq, wall, task.excused)


def _discard(path: Path) -> None:
    with suppress(OSError):  # a disk that has become read-only; the next start sweeps
        path.unlink(missing_ok=True)
