"""Nothing is written, created, renamed, deleted or locked in a watched directory: every process is asked.

The interpreter's audit events tell of every file that Python code opens or changes, in the daemon, in the examiner
and in the workers alike.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from end_to_end.lab import Lab

AUDITED = Path(__file__).parent / "audited"


def audited(below: Path, log: Path, *command: str) -> list[list[str]]:
    """Run a command and return what its processes did below a directory: kind, event and path."""
    path = os.pathsep.join(filter(None, (str(AUDITED), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "AUDIT_BELOW": str(below), "AUDIT_LOG": str(log)}
    subprocess.run(command, env=environment, check=True, timeout=120, stdout=subprocess.DEVNULL)
    return [line.split(" ", 2) for line in log.read_text().splitlines()] if log.exists() else []


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
    ],
)
def test_the_audit_sees_harm(deed, tmp_path):
    below = tmp_path / "below"
    below.mkdir()
    (below / "there").touch()
    seen = audited(below, tmp_path / "log", sys.executable, "-c", deed.format(below=below))
    assert "harm" in {kind for kind, _, _ in seen}


def test_a_whole_run_of_the_daemon_only_reads(tmp_path):
    lab = Lab.at(tmp_path / "lab")
    assert lab.train("a", 6, 2).wait(60) == 0
    store = lab.path / "runs"
    before = stamps(store)
    sounding = str(Path(sys.executable).parent / "sounding")
    seen = audited(store, tmp_path / "log", sounding, "--config", str(lab.config), "watch", "--once")
    assert {status for (status,) in lab.sql("SELECT DISTINCT status FROM outcomes")} == {"ok"}
    assert [entry for entry in seen if entry[0] == "harm"] == []
    opened = {path for _, event, path in seen if event == "open"}
    assert opened >= {str(path) for path in store.rglob("*.pt")}, "the audit saw no checkpoint being read"
    assert stamps(store) == before
