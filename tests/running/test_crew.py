"""What a job leaves behind when it ends, when it is returned, and when the daemon dies under it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from making import checkpoint, results_in, sheet, task_on

from sounding.keeping.ledger import Ledger
from sounding.records import Ending, Job, Outcome, Task
from sounding.running.crew import Crew, publish_marks
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
        return list(ledger.outcomes.values())

    def leftovers(self) -> list[str]:
        return [path.name for path in self.results.tmp.iterdir()]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_death_of_the_daemon_is_a_mishap_of_the_task_and_no_failure(shop: Shop):
    shop.begin(1, replace(task_on(shop.known, NORM), attempt=3, excused=1))
    assert publish_marks(shop.results) == 1
    (ended,) = shop.outcomes()
    assert (ended.ending, ended.attempt, ended.excused) == (Ending.INTERRUPTED, 3, 1)
    assert (ended.failures, ended.mishaps) == (1, 2)
    assert publish_marks(shop.results) == 0


def test_work_that_is_returned_leaves_no_trace(shop: Shop):
    shop.begin(1, task_on(shop.known, NORM))
    shop.crew.stop()
    assert (shop.leftovers(), publish_marks(shop.results), shop.outcomes()) == ([], 0, [])


def test_the_death_of_a_worker_is_a_failure_and_keeps_what_was_excused_before(shop: Shop):
    shop.begin(1, replace(task_on(shop.known, NORM), attempt=4, excused=3))
    shop.child.ends = [Death(Ending.CRASHED, "killed by SIGSEGV")]
    (finished,) = shop.crew.poll(0.0)
    assert [result.ending for result in finished.results] == [Ending.CRASHED]
    (ended,) = shop.outcomes()
    assert (ended.attempt, ended.failures, ended.mishaps) == (4, 1, 3)
    assert shop.leftovers() == []
