"""What a job leaves behind when it ends, when it is returned, and when the daemon dies under it."""

from dataclasses import replace
from pathlib import Path

import pytest
from making import task_on
from running.shop import NORM, Shop

from sounding.records import Ending, Hold, Job, Task
from sounding.running.crew import publish_marks
from sounding.running.dispatch import Death
from sounding.running.postponed import Postponed
from sounding.running.worker import Answer, NotNow


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


def test_a_job_for_which_a_device_has_no_room_is_left_for_a_while_and_counts_as_no_attempt(shop: Shop):
    task = task_on(shop.known, NORM)
    postponed = Postponed()
    shop.begin(1, task)
    shop.child.ends = [Answer(NotNow("cuda has 1.0 GiB free"))]
    (finished,) = shop.crew.poll(0.0)
    assert (finished.job.tasks, finished.results, finished.postponed) == ((task,), (), "cuda has 1.0 GiB free")
    assert (shop.leftovers(), shop.outcomes(), list(shop.crew.jobs())) == ([], [], [])
    postponed.take(finished, 100.0)
    assert postponed.reason == "cuda has 1.0 GiB free"
    assert postponed.keys(129.9) == {task.key}
    assert postponed.keys(130.0) == frozenset()
    shop.begin(2, task)
    shop.finish(task, 2)
    (finished,) = shop.crew.poll(131.0)
    postponed.take(finished, 131.0)
    assert (postponed.reason, postponed.keys(131.0)) == ("", frozenset())


def holding(shop: Shop, *tasks: Task) -> Path:
    """Begin a job that copies, and let its worker have begun to; where the copies are."""
    room = shop.results.path / "holds" / "1"
    job = Job(1, shop.known, tasks, hold=Hold(str(room), 1 << 30, 0))
    shop.crew.begin_job(shop.child, job, {"norm": NORM}, 0.0)
    room.mkdir(parents=True)
    (room / "half").write_text("of a copy")
    return room


@pytest.mark.parametrize("death", [Death(Ending.CRASHED, "killed by SIGSEGV"), Death(Ending.TIMEOUT, "too long")])
def test_copies_of_a_worker_that_died_are_deleted(shop: Shop, death: Death):
    room = holding(shop, task_on(shop.known, NORM))
    shop.child.ends = [death]
    list(shop.crew.poll(0.0))
    assert not room.exists()


def test_copies_of_work_that_is_returned_are_deleted(shop: Shop):
    room = holding(shop, task_on(shop.known, NORM))
    shop.crew.stop()
    assert not room.exists()


def test_copying_is_given_time_beside_the_deadline(shop: Shop):
    asked: list[float] = []
    shop.known = replace(shop.known, stamp=(replace(shop.known.stamp[0], size=2_000_000_000),))
    shop.child.send = lambda call, limits, now: asked.append(limits.deadline_seconds)  # type: ignore[method-assign]
    shop.begin(1, task_on(shop.known, NORM))
    holding(shop, task_on(shop.known, NORM))
    assert asked == [60.0, 160.0]


def test_a_mapped_file_that_cannot_be_read_is_nobodys_fault(shop: Shop):
    """A disk that fails or a server that forgot the file, while the worker touches its pages."""
    shop.begin(1, task_on(shop.known, NORM))
    shop.child.ends = [Death(Ending.CRASHED, "the worker was killed by SIGBUS")]
    list(shop.crew.poll(0.0))
    (ended,) = shop.outcomes()
    assert (ended.ending, ended.failures) == (Ending.GONE, 0)
    assert ended.reason == f"bytes of {shop.known.path} could not be read: the worker was killed by SIGBUS"
