"""The parent's side of its children: whatever a child does costs only its call, and is told in words."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sounding.errors import SoundingError
from sounding.records import Ending
from sounding.running import dispatch
from sounding.running.dispatch import Child, Death, Died, Limits, call_and_wait
from sounding.running.worker import Answer, Call

AMPLE = Limits(deadline_seconds=60.0, memory_bytes=4 << 30)
DEADLINE = 60.0  # seconds; only a failing test waits so long


@pytest.fixture(scope="module")
def shared() -> Iterator[Child]:
    """One child for all tests; it starts anew after each death."""
    child = Child("shared", nice=3, threads=2)
    yield child
    child.stop()


@pytest.fixture
def child(shared: Child) -> Child:
    assert not shared.busy, "a call was left under way"
    return shared


def begin(child: Child, deed: str, *arguments: object, limits: Limits = AMPLE) -> None:
    child.send(Call(f"running.deeds:{deed}", arguments), limits, now=0.0)
    assert child.busy


def end(child: Child, now: float = 0.0) -> Answer | Death:
    give_up = time.monotonic() + DEADLINE
    while (ended := child.poll(now)) is None:
        assert time.monotonic() < give_up, "the child neither answered nor died"
        if child.connection is not None:
            child.connection.poll(0.02)
    assert not child.busy
    return ended


def do(child: Child, deed: str, *arguments: object) -> Any:
    return call_and_wait(child, f"running.deeds:{deed}", arguments, AMPLE)


def appears(path: Path) -> None:
    give_up = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < give_up, f"{path} was never made"


def ends(pid: int) -> None:
    """Wait until a process is over; one that nobody has reaped yet counts as over."""
    give_up = time.monotonic() + DEADLINE
    while psutil.pid_exists(pid):
        assert time.monotonic() < give_up, f"process {pid} lives on"
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return


def test_a_call_is_answered_and_the_next_one_goes_to_the_same_process(child: Child):
    begin(child, "add", 3, 4)
    assert end(child) == Answer(7)
    assert child.poll(1e9) is None, "nothing is under way"
    assert do(child, "pid") == do(child, "pid") == child.pid


def test_a_child_is_set_apart_and_of_low_priority(child: Child):
    found = do(child, "circumstances")
    assert found["group"] == found["pid"] == child.pid != os.getpid()
    assert found["nice"] == os.nice(0) + 3
    assert found["threads"] == 2
    assert found["interrupt"], "Ctrl-C is the parent's to hear"


def test_what_a_call_raises_is_an_answer_and_the_child_lives_on(child: Child):
    before = do(child, "pid")
    begin(child, "raises")
    assert end(child) == Answer(error="ValueError: seven")
    begin(child, "refuses")
    assert end(child) == Answer(error="write the recipe first.")
    begin(child, "no_such_deed")
    ended = end(child)
    assert isinstance(ended, Answer)
    assert "no_such_deed" in ended.error
    assert do(child, "pid") == before


def test_waiting_for_a_call_raises_what_went_wrong(child: Child):
    with pytest.raises(SoundingError, match=r"^write the recipe first"):
        do(child, "refuses")
    with pytest.raises(Died, match="exited with status 7"):
        do(child, "exits", 7)
    assert do(child, "add", 1, 1) == 2


@pytest.mark.parametrize(
    ("deed", "arguments", "words"),
    [
        ("segfaults", (), "killed by SIGSEGV"),
        ("exits", (0,), "exited with status 0 in the middle of the job"),
        ("exits", (7,), "exited with status 7"),
        ("leaves", (), "exited with status 3"),
        ("answers_what_nobody_can_carry", (), "exited with status 1"),
    ],
)
def test_a_death_is_told_by_its_manner_and_costs_only_its_call(
    child: Child, deed: str, arguments: tuple[object, ...], words: str
):
    begin(child, deed, *arguments)
    ended = end(child)
    assert isinstance(ended, Death)
    assert ended.ending is Ending.CRASHED
    assert words in ended.reason
    assert not child.alive
    assert do(child, "add", 1, 1) == 2


def test_an_endless_loop_is_ended_at_its_deadline_and_not_before(child: Child, tmp_path: Path):
    begin(child, "loops", str(tmp_path / "started"), limits=Limits(10.0, 4 << 30))
    appears(tmp_path / "started")
    assert child.poll(10.0) is None
    pid = child.pid
    assert child.poll(10.1) == Death(Ending.TIMEOUT, "still running after its deadline of 10 s")
    assert not psutil.pid_exists(pid or 0)
    assert do(child, "pid") != pid


def test_memory_over_the_limit_is_taken_back(child: Child):
    begin(child, "hoards", limits=Limits(60.0, 600 << 20))
    ended = end(child)
    assert isinstance(ended, Death)
    assert ended.ending is Ending.MEMORY
    used = int(ended.reason.split()[1])
    assert ended.reason == f"used {used} MiB of memory, over the limit of 600 MiB"
    assert 600 <= used < 1500
    assert do(child, "add", 1, 1) == 2


def test_a_kill_from_outside_is_told_as_such(child: Child, tmp_path: Path):
    begin(child, "loops", str(tmp_path / "started"))
    appears(tmp_path / "started")
    os.kill(child.pid or 0, signal.SIGKILL)
    assert end(child) == Death(Ending.CRASHED, "the worker was killed by SIGKILL")


def test_a_death_between_calls_is_not_noticed_by_the_next_one(child: Child):
    before = do(child, "pid")
    os.kill(before, signal.SIGKILL)
    assert child.connection is not None
    assert child.connection.poll(DEADLINE), "its pipe stayed open"  # that of a process closes after its first thread
    assert child.poll(0.0) is None
    assert do(child, "pid") != before


def test_what_a_child_started_dies_with_it(child: Child, tmp_path: Path):
    begin(child, "has_a_child", str(tmp_path / "pid"))
    appears(tmp_path / "pid")
    give_up = time.monotonic() + DEADLINE
    while not (text := (tmp_path / "pid").read_text()):
        assert time.monotonic() < give_up
    assert psutil.pid_exists(int(text))
    ended = child.poll(AMPLE.deadline_seconds + 1)
    assert isinstance(ended, Death)
    ends(int(text))


def test_stopping_ends_a_call_under_way_and_is_no_death(child: Child, tmp_path: Path):
    begin(child, "loops", str(tmp_path / "started"))
    appears(tmp_path / "started")
    pid = child.pid or 0
    child.stop()
    assert not child.busy
    assert child.poll(1e9) is None
    assert not psutil.pid_exists(pid)
    child.stop()
    assert child.pid is None


def test_a_child_is_replaced_after_so_many_calls(child: Child, monkeypatch: pytest.MonkeyPatch):
    child.stop()
    monkeypatch.setattr(dispatch, "_RECYCLE_AFTER", 3)
    pids = [do(child, "pid") for _ in range(7)]
    first, second, third = pids[0], pids[3], pids[6]
    assert pids == [first] * 3 + [second] * 3 + [third]
    assert len({first, second, third}) == 3
    assert not psutil.pid_exists(first)


def test_two_children_work_at_the_same_time(child: Child, tmp_path: Path):
    other = Child("other")
    try:
        begin(child, "loops", str(tmp_path / "started"))
        assert do(other, "add", 2, 2) == 4
        assert child.busy
        child.stop()
        assert do(other, "add", 2, 3) == 5
    finally:
        other.stop()
