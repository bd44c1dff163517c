"""Environments of their own for the packages that others would use instead: made once, under the user's cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sounding-benchmarks"


def python_with(*packages: str) -> str:
    """The interpreter of an environment that holds these packages, pinned, as `name==version`."""
    wanted = " ".join(sorted(packages))
    place = CACHE / hashlib.blake2b(wanted.encode(), digest_size=6).hexdigest()
    python = place / "bin" / "python"
    if not (place / "made").exists():
        print(f"making an environment with {wanted}", file=sys.stderr)
        venv.create(place, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        subprocess.run(install, check=True)
        (place / "made").touch()
    return str(python)


def run(python: str, script: Path, arguments: Sequence[str]) -> str:
    """Standard output of a script under that interpreter, with one thread; its own messages are not shown."""
    command = [python, str(script), *arguments]
    return subprocess.run(command, check=True, env=_alone(), capture_output=True, text=True).stdout


def watched(python: str, arguments: Sequence[str]) -> tuple[str, float, float]:
    """Standard output, and peaks of what a process had in memory, in MiB: all of it, and its own without mapped files.

    The kernel keeps the first; the second is looked at every few milliseconds.
    """
    resident = own = 0
    command = [python, *arguments]
    with (
        tempfile.TemporaryFile("w+") as told,
        subprocess.Popen(command, env=_alone(), stdout=told, stderr=subprocess.DEVNULL) as work,
    ):
        while work.poll() is None:
            status = Path(f"/proc/{work.pid}/status").read_text()
            found = dict(line.split()[:2] for line in status.splitlines() if line.startswith(("VmHWM", "RssAnon")))
            resident, own = max(resident, int(found.get("VmHWM:", 0))), max(own, int(found.get("RssAnon:", 0)))
            time.sleep(0.003)
        if work.returncode:
            raise subprocess.CalledProcessError(work.returncode, command)
        told.seek(0)
        return told.read(), resident / 1024, own / 1024


def _alone() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
