"""One daemon per results directory, however the one before ended."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sounding.errors import SoundingError
from sounding.running.lock import LOCK, Holder, Lock, Standing, forget, holder, judge
from sounding.running.machine import Machine, born, this_machine
from sounding.running.status import Status, write_status

HOLD = """
import sys
from pathlib import Path
from sounding.running.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(results: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(results)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_daemon_is_refused_naming_the_first(tmp_path: Path):
    with held_elsewhere(tmp_path) as process:
        with pytest.raises(SoundingError) as refusal, Lock(tmp_path):
            pytest.fail("two daemons on the same results")
        assert f"pid {process.pid} on {socket.gethostname()}" in str(refusal.value)
        assert str(tmp_path) in str(refusal.value)
        there = holder(tmp_path)
        assert there is not None
        assert (there.pid, there.host, there.alive) == (process.pid, socket.gethostname(), True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_death_of_any_kind_gives_the_lock_back(tmp_path: Path, number: int):
    with held_elsewhere(tmp_path) as process:
        process.send_signal(number)
        assert process.wait(20) == -number
        there = holder(tmp_path)
        assert there is not None
        assert (there.pid, there.alive) == (process.pid, False)
        with Lock(tmp_path):
            there = holder(tmp_path)
            assert there is not None
            assert (there.pid, there.alive) == (os.getpid(), True)


def test_the_end_of_the_block_gives_the_lock_back_also_by_an_exception(tmp_path: Path):
    with pytest.raises(ValueError, match="anything"), Lock(tmp_path):
        raise ValueError("anything")
    with Lock(tmp_path):
        pass
    there = holder(tmp_path)
    assert there is not None
    assert not there.alive


def test_the_lock_is_not_inherited_by_programs_that_the_daemon_starts(tmp_path: Path):
    with Lock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with child:
        with Lock(tmp_path):
            pass
        child.kill()


def test_where_no_daemon_ever_was_there_is_no_holder(tmp_path: Path):
    assert holder(tmp_path) is None
    assert holder(tmp_path / "missing") is None


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": "x"}'])
def test_a_name_that_is_not_written_yet_is_a_holder_without_a_name(tmp_path: Path, text: str):
    with held_elsewhere(tmp_path):
        (tmp_path / LOCK).write_text(text)
        there = holder(tmp_path)
        assert there is not None
        assert (there.pid, there.alive) == (0, True)
        with pytest.raises(SoundingError, match="another process"), Lock(tmp_path):
            pytest.fail("two daemons on the same results")


def test_asking_who_holds_it_never_keeps_a_daemon_from_starting(tmp_path: Path):
    """`holder` must take the lock for a moment to find out; a daemon that starts in that moment waits it out."""
    (tmp_path / LOCK).touch()
    asking = True

    def ask() -> None:
        while asking:
            holder(tmp_path)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            with Lock(tmp_path):
                pass
    finally:
        asking = False
        for thread in threads:
            thread.join()


# --- what the file says where the kernel's lock is silent ---------------------------------------------------------

WROTE = Holder("node1", 41, "2026-05-01T00:00:00+00:00", "boot-a", "1000")


def machine(host: str = "node1", boot: str = "boot-a", **processes: str) -> Machine:
    """A machine on which these processes run, by number, since then."""
    return Machine(host, boot, lambda pid: processes.get(f"p{pid}", ""))


@pytest.mark.parametrize(
    ("story", "here", "taken", "standing"),
    [
        ("its lock is held: it lives, wherever", machine("node2", "boot-b"), False, Standing.HELD),
        ("the same process, on a file system without locks", machine(p41="1000"), None, Standing.HELD),
        ("the process is over", machine(), None, Standing.FREE),
        ("its number was given to another process", machine(p41="2000"), None, Standing.FREE),
        ("this kernel gave the lock back, whoever has the number now", machine(p41="1000"), True, Standing.FREE),
        ("the machine has started anew", machine(boot="boot-b", p41="1000"), True, Standing.FREE),
        ("the machine has started anew, no locks", machine(boot="boot-b", p41="1000"), None, Standing.FREE),
        ("another machine, whose lock cannot be seen", machine("node2", "boot-b"), True, Standing.ELSEWHERE),
        ("another machine, no locks", machine("node2", "boot-b"), None, Standing.ELSEWHERE),
        ("a container of this kernel, ended", machine("box", "boot-a"), True, Standing.FREE),
        ("a container of this kernel, no locks", machine("box", "boot-a"), None, Standing.ELSEWHERE),
        ("boots unknown, same host, over", machine(boot=""), None, Standing.FREE),
        ("boots unknown, same host, alive", machine(boot="", p41="1000"), None, Standing.HELD),
        ("boots unknown, another host", machine("node2", boot=""), True, Standing.ELSEWHERE),
    ],
)
def test_who_holds_the_lock_is_judged_by_all_that_is_known(
    story: str, here: Machine, taken: bool | None, standing: Standing
):
    assert judge(WROTE, taken, here) is standing, story
    if taken is not False:
        assert judge(replace(WROTE, released=True), taken, here) is Standing.FREE, f"{story}, but it was given back"
        assert judge(None, taken, here) is Standing.FREE


def test_a_process_is_told_from_the_next_one_of_its_number():
    assert WROTE.is_here(machine(p41="1000"))
    for other in (machine(p41="1001"), machine(), machine(boot="boot-b", p41="1000"), machine("node2", "", p41="1000")):
        assert not WROTE.is_here(other)
    assert WROTE.is_here(machine("renamed", p41="1000")), "a host may be renamed while it runs"


def test_the_facts_of_this_machine():
    here = this_machine()
    assert here.host == socket.gethostname()
    assert here.boot == this_machine().boot
    assert here.born(os.getpid()) == born(os.getpid()) != ""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert born(process.pid) == "", "over, and not yet reaped"
    assert born(process.pid) == ""


def held_by(results: Path, other: Holder, heartbeat: datetime | None) -> None:
    (results / LOCK).write_text(json.dumps({key: value for key, value in asdict(other).items() if key != "standing"}))
    if heartbeat is not None:
        write_status(results, Status(other.host, other.pid, other.since, heartbeat.isoformat(), "watching"))


@pytest.mark.parametrize(
    ("age", "words"), [(timedelta(hours=3), "last heartbeat 3 h 0 min ago"), (None, "no heartbeat yet")]
)
def test_a_lock_of_another_machine_is_refused_with_its_name_and_heartbeat(
    tmp_path: Path, age: timedelta | None, words: str
):
    elsewhere = replace(WROTE, host="node9")
    held_by(tmp_path, elsewhere, None if age is None else datetime.now(UTC) - age)
    with pytest.raises(SoundingError) as refusal, Lock(tmp_path):
        pytest.fail("two daemons on the same results")
    for expected in (str(tmp_path), "host node9", words, "sounding stop --forget"):
        assert expected in str(refusal.value)
    assert forget(tmp_path).host == "node9"
    with Lock(tmp_path):
        pass


def test_a_machine_that_started_anew_needs_no_forgetting(tmp_path: Path):
    here = this_machine()
    held_by(tmp_path, Holder(here.host, os.getpid(), WROTE.since, "an earlier boot", here.born(os.getpid())), None)
    with Lock(tmp_path):
        there = holder(tmp_path)
        assert there is not None
        assert (there.boot, there.alive) == (here.boot, True)


def test_only_a_lock_of_another_machine_can_be_forgotten(tmp_path: Path):
    with pytest.raises(SoundingError, match="nothing to forget"):
        forget(tmp_path)
    with held_elsewhere(tmp_path) as process, pytest.raises(SoundingError, match=f"pid {process.pid} .*lives"):
        forget(tmp_path)
    with pytest.raises(SoundingError, match="nothing to forget"):
        forget(tmp_path)


def test_a_daemon_knows_when_its_lock_was_taken_away(tmp_path: Path):
    with Lock(tmp_path) as lock:
        assert lock.is_mine()
        held_by(tmp_path, replace(WROTE, host="node9"), None)
        assert not lock.is_mine()
    assert json.loads((tmp_path / LOCK).read_text())["released"] is False, "what is not ours is not given back"


def test_a_daemon_knows_when_its_lock_was_deleted(tmp_path: Path):
    with Lock(tmp_path) as lock:
        (tmp_path / LOCK).unlink()
        assert not lock.is_mine()
        with Lock(tmp_path):
            assert not lock.is_mine(), "another file of the same name"


def test_a_disk_that_refuses_the_last_word_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int, text: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with Lock(tmp_path):
        monkeypatch.setattr(os, "pwrite", refuse)
    there = holder(tmp_path)
    assert there is not None
    assert (there.alive, there.released) == (False, False)


def test_without_locks_in_the_file_system_the_file_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Lock(tmp_path):
        with pytest.raises(SoundingError, match=f"pid {os.getpid()}"), Lock(tmp_path):
            pytest.fail("two daemons on the same results")
        there = holder(tmp_path)
        assert there is not None
        assert there.alive
    held_by(tmp_path, replace(WROTE, host=socket.gethostname()), None)
    with Lock(tmp_path):
        pass
