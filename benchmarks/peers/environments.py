"""Environments of their own for the packages that others would use instead: made once, under the user's cache."""

import hashlib
import os
import subprocess
import sys
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
    one = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [python, str(script), *arguments]
    return subprocess.run(command, check=True, env=one, capture_output=True, text=True).stdout
