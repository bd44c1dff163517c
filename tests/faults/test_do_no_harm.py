"""Nothing is written, created, renamed, deleted or locked in a watched directory: every process is asked.

The interpreter's audit events tell of every file that Python code opens or changes, in the daemon, in the examiner
and in the workers alike.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from end_to_end.lab import CONFIG, Lab

from sounding.running.status import Status, read_status

AUDITED = Path(__file__).parent / "audited"


def audited(
    below: Path, log: Path, *command: str, meanwhile: Callable[[subprocess.Popen[bytes]], None] = lambda process: None
) -> list[list[str]]:
    """Run a command and return what its processes did below a directory: kind, event and path.

    `meanwhile` is called while it runs, and sees to it that it ends.
    """
    path = os.pathsep.join(filter(None, (str(AUDITED), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "AUDIT_BELOW": str(below), "AUDIT_LOG": str(log)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            meanwhile(process)
            assert process.wait(120) == 0
        finally:
            process.kill()
    return [line.split(" ", 2) for line in log.read_text().splitlines()] if log.exists() else []


def handles(process: subprocess.Popen[bytes], below: Path) -> dict[int, set[str]]:
    """What every process of a family has below a directory: open files, mappings, its working directory."""
    found: dict[int, set[str]] = {}
    for member in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        place = Path("/proc") / str(member.pid)
        links = [*(place / "fd").iterdir(), place / "cwd"]
        held = {os.readlink(link) for link in links if link.is_symlink()}  # noqa: PTH115 - most lead to no path
        held |= {line.split(maxsplit=5)[-1] for line in (place / "maps").read_text().splitlines()}
        found[member.pid] = {path for path in held if path.startswith(f"{below}")}
    return found


def is_done(told: Status | None, checkpoints: int) -> bool:
    """Whether a daemon has seen so many checkpoints and owes nothing."""
    return told is not None and sum(s.complete for s in told.stores) == checkpoints and told.done > 0 and told.owed == 0


def wait_until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 100
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.05)  # a real process is waited for


def stamps(store: Path) -> dict[Path, tuple[int, ...]]:
    """Everything of every file that any change would change."""
    found = {path: path.stat() for path in store.rglob("*")}
    return {
        path: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_nlink, s.st_mode) for path, s in found.items()
    }


@pytest.mark.parametrize(
    "deed",
    [
        "open('{below}/a', 'w')",
        "import os; os.remove('{below}/there')",
        "import os; os.rename('{below}/there', '{below}/b')",
        "import os; os.mkdir('{below}/c')",
        "import os; os.chmod('{below}/there', 0o600)",
        "import fcntl; fcntl.flock(open('{below}/there'), fcntl.LOCK_SH)",
        "import os; os.utime('{below}/there')",
        "import os; os.link('{below}/there', '{below}/d')",
        "import os; os.link('{below}/../outside', '{below}/d')",
        "import os; os.symlink('../outside', '{below}/d')",
        "import os; os.truncate('{below}/there', 0)",
        "import os; os.rmdir('{below}/room')",
        "import shutil; shutil.copyfile('{below}/../outside', '{below}/there')",
    ],
)
def test_the_audit_sees_harm(deed, tmp_path):
    below = tmp_path / "below"
    below.mkdir()
    (below / "there").touch()
    (below / "room").mkdir()
    (tmp_path / "outside").touch()
    seen = audited(below, tmp_path / "log", sys.executable, "-c", deed.format(below=below))
    assert "harm" in {kind for kind, _, _ in seen}


def test_handles_are_seen(tmp_path):
    for kept in (
        "open(path)",
        "__import__('mmap').mmap(__import__('os').open(path, 0), 0, prot=1)",
        "__import__('os').chdir(path[:-5])",
    ):
        (tmp_path / "file").write_text("something")
        program = f"path = {str(tmp_path / 'file')!r}; kept = {kept}; print(flush=True); input()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert handles(process, tmp_path)[process.pid], kept
            process.kill()


@pytest.mark.timeout(180)
def test_a_whole_run_of_the_daemon_only_reads(tmp_path):
    lab = Lab.at(tmp_path / "lab", CONFIG.replace("attributes", 'logs = ["{run}/*.csv"]\nattributes'))
    lab.train_here("a", 6, 2)
    store = lab.path / "runs"
    (store / "a" / "metrics.csv").write_text("step,loss\n1,0.5\n")
    before = stamps(store)
    sounding = str(Path(sys.executable).parent / "sounding")
    kept: dict[int, set[str]] = {}

    def meanwhile(process: subprocess.Popen[bytes]) -> None:
        """When everything is measured, the daemon and its workers are alive, and hold nothing of the store."""
        wait_until(lambda: is_done(read_status(lab.results), len(list(store.rglob("*.pt")))))
        kept.update(handles(process, store))
        process.terminate()

    seen = audited(store, tmp_path / "log", sounding, "--config", str(lab.config), "watch", meanwhile=meanwhile)
    ended = {status for (status,) in lab.sql("SELECT DISTINCT status FROM outcomes")}
    assert {"ok"} <= ended <= {"ok", "skipped"}
    assert [entry for entry in seen if entry[0] == "harm"] == []
    assert lab.sql("SELECT updates, value FROM logs") == [(1, 0.5)]
    opened = {path for _, event, path in seen if event == "open"}
    assert opened >= {str(path) for path in store.rglob("*.pt")}, "the audit saw no checkpoint being read"
    assert stamps(store) == before
    assert len(kept) > 3, "the daemon, its examiner, its worker, and what they come from"
    assert set().union(*kept.values()) == set()
