"""One daemon per results directory, however the one before ended."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sounding.records import SoundingError
from sounding.running.lock import LOCK, Lock, holder

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
