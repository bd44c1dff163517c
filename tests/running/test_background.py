"""Starting and stopping a daemon in the background: what is refused, what is said, and one whole life."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import torch

from sounding.config import Settings, cores, load_config
from sounding.errors import SoundingError
from sounding.running.background import start, stop
from sounding.running.lock import LOCK, Holder, Lock, holder
from sounding.running.machine import Machine, born, this_machine
from sounding.running.status import read_status

CONFIG = '[[stores]]\npath = "runs"\npattern = "{run}/ckpt_{step}.pt"\n[daemon]\nscan_seconds = 0.5\nworkers = 2\n'
HOLD = """
import signal, sys
from pathlib import Path
from sounding.running.lock import Lock
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
APPETITE = Path(__file__).parent / "appetite"
AWAY = Machine("node9", "another boot", lambda pid: "7")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "runs").mkdir()
    (tmp_path / "sounding.toml").write_text(CONFIG)
    (tmp_path / ".sounding").mkdir()
    return load_config(tmp_path / "sounding.toml")


@contextmanager
def holding(results: Path, how: str = "") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(results), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_daemon_is_refused_by_host_and_pid(settings: Settings):
    with Lock(settings.results), pytest.raises(SoundingError) as refusal:
        start(settings, 10)
    assert f"pid {os.getpid()} on {socket.gethostname()}" in str(refusal.value)
    assert "sounding stop" in str(refusal.value)


def test_results_that_another_machine_may_hold_are_refused(settings: Settings):
    left = Holder("node9", 3, "2026-05-01T00:00:00+00:00", "another boot", "7")
    (settings.results / LOCK).write_text(json.dumps({k: v for k, v in asdict(left).items() if k != "standing"}))
    for refused in (lambda: start(settings, 10), lambda: stop(settings.results, 10)):
        with pytest.raises(SoundingError, match=r"host node9.*no heartbeat yet.*sounding stop --forget"):
            refused()


def test_a_daemon_that_dies_as_it_starts_leaves_its_last_words(settings: Settings):
    (settings.results / "jobs").write_text("not a directory")
    with pytest.raises(SoundingError) as refusal:
        start(settings, 60)
    assert "ended as it started, with status 1" in str(refusal.value)
    assert str(settings.results / "jobs") in str(refusal.value)


def test_where_no_daemon_runs_there_is_nothing_to_stop(settings: Settings):
    assert stop(settings.results, 10) is None
    with Lock(settings.results):
        pass
    assert stop(settings.results, 10) is None


def test_a_daemon_on_another_machine_is_not_stopped_from_here(settings: Settings):
    with Lock(settings.results, AWAY), pytest.raises(SoundingError, match=r"runs on host node9 .*stop it there"):
        stop(settings.results, 10)


@pytest.mark.parametrize("locks", [True, False])
def test_a_number_that_another_process_has_now_is_not_signalled(
    settings: Settings, locks: bool, monkeypatch: pytest.MonkeyPatch
):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    here = this_machine()
    left = Holder(here.host, os.getpid(), "2026-05-01T00:00:00+00:00", here.boot, born(os.getpid()) + "1")
    (settings.results / LOCK).write_text(json.dumps({k: v for k, v in asdict(left).items() if k != "standing"}))
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    if not locks:
        monkeypatch.setattr(fcntl, "flock", refuse)
    try:
        assert stop(settings.results, 10) is None
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == []


def test_a_process_that_ends_without_a_word_is_said_to(settings: Settings):
    with holding(settings.results) as process:
        ended = stop(settings.results, 20)
        assert ended is not None
        assert (ended.holder.pid, ended.status) == (process.pid, None)


def test_a_daemon_that_does_not_end_in_time_is_named(settings: Settings):
    with holding(settings.results, "deaf") as process:
        waited: list[float] = []
        with pytest.raises(SoundingError) as late:
            stop(settings.results, 0.3, lambda holder, status, seconds: waited.append(seconds))
        assert f"pid {process.pid} on" in str(late.value)
        assert f"kill -9 {process.pid}" in str(late.value)
        assert waited == sorted(waited) != []


def sounding(*arguments: str, cwd: Path, code: int = 0) -> str:
    """Run a command as a user does, whose environment says nothing of threads, with a plugin of this test's own."""
    path = os.pathsep.join(filter(None, (str(APPETITE), os.environ.get("PYTHONPATH"))))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("OMP_") and "_NUM_THREADS" not in name
    }
    ended = subprocess.run(
        [sys.executable, "-m", "sounding_cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "PYTHONPATH": path},
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def assert_modest(rows: list[dict[str, object]]) -> None:
    """Two workers, with nothing said of threads: together no more than the cores, and after everybody else."""
    taken = {row["metric"]: float(str(row["value"])) for row in rows}
    assert 2 * taken["torch_threads"] <= max(2, cores())
    assert 2 * taken["numpy_threads"] <= max(2, cores())
    assert taken["niceness"] == min(19, os.nice(0) + 10)
    assert taken["waits_asleep"] == 1.0


def test_a_life_in_the_background(settings: Settings):
    """The one real process of these tests: started, asked, read, refused a twin, and stopped."""
    home, results = settings.source.parent, settings.results
    (home / "runs" / "a").mkdir()
    torch.save({"model": {"w": torch.tensor([[3.0, 4.0]])}}, home / "runs" / "a" / "ckpt_7.pt")
    text = sounding("start", cwd=home)
    known = holder(results)
    assert known is not None
    assert known.alive
    assert f"started: pid {known.pid} on {socket.gethostname()} watches {home / 'runs'}" in text
    assert os.getsid(known.pid) == known.pid != os.getsid(0), "it outlives the terminal"
    family = [psutil.Process(known.pid), *psutil.Process(known.pid).children(recursive=True)]
    try:
        assert "in the background" in sounding("status", cwd=home)
        assert f"pid {known.pid} on" in sounding("start", cwd=home, code=1)
        give_up = time.monotonic() + 60
        while "measured a @ 7" not in (log := sounding("logs", cwd=home)):
            assert time.monotonic() < give_up, log
        assert f"watches {home / 'runs'}" in log
        assert_modest(json.loads(sounding("query", "SELECT metric, value FROM readings", "--json", cwd=home)))
        assert f"pid {known.pid} on {known.host} stopped" in sounding("stop", cwd=home)
    finally:
        for process in family:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
    psutil.wait_procs(family, timeout=20)
    status = read_status(results)
    assert status is not None
    assert (status.state, status.mode, status.pid, status.failed) == ("stopped", "background", known.pid, 0)
    assert replace(known, released=True, standing=holder(results).standing) == holder(results)  # type: ignore[union-attr]
    assert "not running; the last one, in the background, stopped" in sounding("status", cwd=home)
