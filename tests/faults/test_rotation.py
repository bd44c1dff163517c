"""Checkpoints that are deleted while they are measured, stores on networks, lost events and clocks that jump."""

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from making import START
from running.helm import CONFIG, Helm

from sounding.keeping.results import ResultsDirectory
from sounding.records import Ending, Job, Outcome, Reading, TaskResult
from sounding.running import holding
from sounding.running.crew import publish_marks
from sounding.stamps import change_of


class Killed(BaseException):
    """The end of a process that has no time for anything."""


class Rotating:
    """A daemon whose worker reads what the job says, and what happens while it does."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch, store: str = "") -> None:
        self.patch = patch
        self.helm = Helm(path, patch, CONFIG.replace("[daemon]", f"{store}\n[daemon]"))
        self.jobs: list[Job] = []
        self.strike: Callable[[Job], None] = lambda job: None
        patch.setitem(sys.modules, "sounding.measuring.measure", SimpleNamespace(measure=self.measure))
        patch.setitem(
            sys.modules, "sounding.measuring.extent", SimpleNamespace(reads_only_weights=lambda loaded, job: True)
        )
        patch.setitem(sys.modules, "sounding.measuring.discovery", SimpleNamespace(load=lambda: None))

    def measure(self, job: Job) -> list[TaskResult]:
        """As the real one: what is read from a copy does not care for the original."""
        self.jobs.append(job)
        self.strike(job)
        checkpoint, copy = job.checkpoint, job.copies.get(job.checkpoint.checkpoint_id)
        change = change_of(checkpoint.path, checkpoint.stamp)
        if copy is not None and copy.path:
            found = (Reading("frobenius", float(Path(copy.path).read_text())),)
            return [TaskResult(task, Ending.OK, "", found) for task in job.tasks]
        if change is not None:
            reason = f"{change[1]}; {copy.reason}" if copy is not None else change[1]
            return [TaskResult(task, change[0], reason) for task in job.tasks]
        found = (Reading("frobenius", float(Path(checkpoint.path).read_text())),)
        return [TaskResult(task, Ending.OK, "" if copy is None else copy.reason, found) for task in job.tasks]

    def save(self, *steps: int) -> None:
        for step in steps:
            self.helm.post.write(f"a/ckpt_{step}.pt", str(step))

    def delete(self, *steps: int) -> None:
        for step in steps:
            (self.helm.post.runs / "a" / f"ckpt_{step}.pt").unlink()

    def steps(self) -> list[tuple[int, bool]]:
        """Every job so far: its step, and whether it read a copy."""
        return [(job.checkpoint.step, any(copy.path for copy in job.copies.values())) for job in self.jobs]

    def endings(self) -> list[tuple[int, Ending]]:
        return [(outcome.subject.step, outcome.ending) for outcome in self.helm.outcomes()]

    def last_of(self, step: int) -> Outcome:
        return [outcome for outcome in self.helm.outcomes() if outcome.subject.step == step][-1]

    def rotate(self) -> None:
        """A run of which the first checkpoints were measured and deleted."""
        self.save(1, 2, 3)
        self.helm.run()
        self.delete(1, 2)
        self.helm.run()
        self.jobs.clear()


@pytest.fixture
def rotating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Rotating]]:
    made: list[Rotating] = []

    def make(store: str = "") -> Rotating:
        made.append(Rotating(tmp_path, monkeypatch, store))
        return made[-1]

    yield make
    for one in made:
        one.helm.close()


def unlink(job: Job) -> None:
    Path(job.checkpoint.path).unlink()


def test_once_rotation_is_seen_the_oldest_goes_first_and_is_read_from_a_copy(rotating: Callable[..., Rotating]):
    run = rotating()
    run.save(1, 2, 3)
    run.helm.run()
    assert run.steps() == [(3, False), (1, False), (2, False)], "newest first, where it lies"
    run.delete(1)
    run.save(4, 5)
    run.strike = unlink
    run.helm.run()
    assert run.steps()[3:] == [(4, True), (5, True)], "what will go first goes first"
    assert run.helm.readings() == [("a", step, float(step)) for step in (1, 2, 3, 4, 5)]
    assert {ending for _, ending in run.endings()} == {Ending.OK}
    assert os.listdir(run.helm.results.path / "holds") == []


@pytest.mark.parametrize("store", ["hold = true", "network = true"])
def test_a_copy_is_read_from_the_first_checkpoint_on_where_it_is_asked_for(
    rotating: Callable[..., Rotating], store: str
):
    run = rotating(store)
    run.strike = unlink
    run.save(1)
    run.helm.run(20.0)
    assert run.steps() == [(1, True)]
    assert run.helm.readings() == [("a", 1, 1.0)]


def test_without_a_copy_what_vanishes_is_gone_with_its_reason_and_costs_no_plugin(rotating: Callable[..., Rotating]):
    run = rotating("hold = false")
    run.rotate()
    run.strike = unlink
    run.save(4)
    status = run.helm.run(60.0)
    assert set(run.steps()) == {(4, False)}
    outcome = run.last_of(4)
    assert (outcome.ending, outcome.failures) == (Ending.GONE, 0)
    assert "ckpt_4.pt is gone (No such file or directory)" in outcome.reason
    assert (status.owed, status.failed) == (0, 0)


def test_what_vanishes_while_it_is_copied_is_gone_with_its_reason(
    rotating: Callable[..., Rotating], monkeypatch: pytest.MonkeyPatch
):
    run = rotating()
    run.rotate()

    def copyfile(source: object, target: object) -> None:
        Path(str(source)).unlink()

    monkeypatch.setattr(holding, "shutil", SimpleNamespace(**vars(shutil) | {"copyfile": copyfile}))
    run.save(4)
    run.helm.run()
    outcome = run.last_of(4)
    assert outcome.ending is Ending.GONE
    assert outcome.reason.endswith("is gone (No such file or directory); no copy of it was made in time")


def test_a_disk_that_is_full_for_copies_alone_costs_the_copy_and_says_so(
    rotating: Callable[..., Rotating], monkeypatch: pytest.MonkeyPatch
):
    run = rotating()
    run.rotate()

    def copyfile(source: object, target: object) -> None:
        Path(str(target)).write_text("half of")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(holding, "shutil", SimpleNamespace(**vars(shutil) | {"copyfile": copyfile}))
    run.save(4)
    run.helm.run()
    assert run.helm.readings()[-1] == ("a", 4, 4.0)
    reason = run.helm.outcomes()[-1].reason
    assert reason == "read where it lies, without a copy: No space left on device"
    assert os.listdir(run.helm.results.path / "holds") == []


@pytest.mark.parametrize("kept", [True, False])
def test_a_kill_between_copy_and_reading_leaves_nothing_lost_or_twice_or_behind(
    rotating: Callable[..., Rotating], monkeypatch: pytest.MonkeyPatch, kept: bool
):
    run = rotating()
    run.rotate()

    def kill(job: Job) -> None:
        assert Path(job.copies[job.checkpoint.checkpoint_id].path).read_text() == "4"
        raise Killed

    run.strike = kill
    monkeypatch.setattr(holding, "release", lambda job: None)  # a process that was killed cleans nothing up
    run.save(4)
    with pytest.raises(Killed):
        run.helm.run()
    monkeypatch.undo()
    holds = run.helm.results.path / "holds"
    assert len(os.listdir(holds)) == 1
    if not kept:
        run.delete(4)
    again = rotating()
    assert publish_marks(again.helm.results) == 1
    again.helm.results.sweep(lambda name: False)
    assert os.listdir(holds) == []
    again.helm.start()
    again.helm.run(60.0)
    expected = [Ending.INTERRUPTED, Ending.OK] if kept else [Ending.INTERRUPTED]
    assert [ending for step, ending in again.endings() if step == 4] == expected
    assert again.helm.readings() == [("a", step, float(step)) for step in ((1, 2, 3, 4) if kept else (1, 2, 3))]
    assert os.listdir(holds) == []


def test_a_store_on_a_network_is_scanned_only_and_status_says_so(rotating: Callable[..., Rotating]):
    run = rotating("network = true")
    run.helm.run(2.0)
    (store,) = run.helm.status().stores
    assert store.scanned == "network = true"
    assert run.helm.status().message == ""


def test_when_events_were_lost_everything_is_looked_at(rotating: Callable[..., Rotating]):
    run = rotating()
    run.save(1, 2)
    run.helm.run()
    run.helm.post.write("a/ckpt_1.pt", "7")  # in place: no listing tells, and it was not the one written last
    run.helm.run()
    assert run.steps() == [(2, False), (1, False)], "the full scan is minutes away"
    run.helm.daemon.bell.ring(lost=True)
    run.helm.run(1.0)
    assert ("a", 1, 7.0) in run.helm.readings()


@pytest.mark.parametrize("days", [-1, 1])
def test_a_jump_of_the_wall_clock_changes_nothing_but_what_is_shown(rotating: Callable[..., Rotating], days: int):
    run = rotating()
    run.save(1, 2)
    run.helm.run()
    run.save(3)
    helm = run.helm
    for _ in range(20):
        helm.now += 0.5
        helm.daemon.tick(helm.now, START + timedelta(seconds=helm.now, days=days))
    run.save(4)
    helm.run()
    assert sorted(step for step, _ in run.steps()) == [1, 2, 3, 4]
    assert helm.readings() == [("a", step, float(step)) for step in (1, 2, 3, 4)]
    assert helm.daemon.is_idle(helm.now)


def test_a_clock_set_forward_deletes_nothing_that_a_query_may_still_read(
    rotating: Callable[..., Rotating], monkeypatch: pytest.MonkeyPatch
):
    run = rotating()
    helm, deleted = run.helm, list[float]()
    monkeypatch.setattr(ResultsDirectory, "delete_replaced", lambda self, wall: deleted.append(helm.now) or [])
    folded: Future[str | None] = Future()
    folded.set_result(None)
    monkeypatch.setattr(helm.daemon, "_folder", SimpleNamespace(submit=lambda *_: folded, shutdown=lambda: None))
    helm.run(30.0, step=5.0)
    before = len(deleted)
    assert before > 0
    for _ in range(70):
        helm.now += 10.0
        helm.daemon.tick(helm.now, START + timedelta(seconds=helm.now, days=1))
    assert len(deleted) > before
    assert deleted[before] - deleted[before - 1] >= 600.0
