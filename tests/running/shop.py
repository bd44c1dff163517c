"""A crew whose one child is a puppet: what its calls end with is said by the test."""

from dataclasses import dataclass, field
from pathlib import Path

from making import START, checkpoint, results_in, sheet

from sounding.keeping.ledger import Ledger
from sounding.keeping.results import write_rows
from sounding.keeping.rows import outcome_row
from sounding.records import Ending, Job, Outcome, Task, TaskResult
from sounding.running.crew import Crew
from sounding.running.dispatch import Child, Death, Limits
from sounding.running.worker import Answer, Call
from sounding.stamps import stamp_of

NORM = sheet("norm")


@dataclass
class Puppet(Child):
    """A child without a process: what its calls end with is said by the test."""

    ends: list[Answer | Death] = field(default_factory=list)
    heard: list[Call] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return True

    def send(self, call: Call, limits: Limits, now: float) -> None:
        self.heard.append(call)

    def poll(self, now: float) -> Answer | Death | None:
        return self.ends.pop(0) if self.ends else None

    def stop(self) -> None:
        self.ends.clear()


@dataclass
class Shop:
    """A crew of one puppet over results of its own."""

    path: Path

    def __post_init__(self) -> None:
        self.results = results_in(self.path / "results")
        self.child = Puppet("puppet")
        self.crew = Crew(self.results, [self.child], Limits(60.0, 1 << 30), "epoch")
        file = self.path / "ckpt.pt"
        file.write_text("weights")
        self.known = checkpoint(7, path=str(file), stamp=stamp_of(file))

    def begin(self, seq: int, *tasks: Task) -> None:
        self.crew.begin_job(self.child, Job(seq, self.known, tasks), {"norm": NORM}, 0.0)

    def outcomes(self) -> list[Outcome]:
        ledger = Ledger(self.results)
        ledger.refresh()
        return [outcome for run in ledger.runs() for outcome in ledger.outcomes(run).values()]

    def leftovers(self) -> list[str]:
        return [path.name for path in self.results.tmp.iterdir()]

    def finish(self, task: Task, seq: int) -> None:
        """Let the job under way end well, with the file that a worker writes."""
        outcome = Outcome(task.key, task.subject, Ending.OK, "", task.attempt, seq, START)
        write_rows(Path(str(self.child.heard[-1].arguments[1])), [outcome_row(outcome)])
        self.child.ends = [Answer((TaskResult(task, Ending.OK),))]
