"""A daemon that is killed at a named point: the process under test of the fault tests.

    python daemon_that_dies.py CONFIG POINT COUNT

It measures what is there and leaves; at the COUNT-th passage of POINT it dies by SIGKILL, as by `kill -9`. With
POINT "never" it lives.
"""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from sounding.config import load_config
from sounding.keeping.results import ResultsDirectory
from sounding.running.service import watch


def main(config: str, point: str, count: str) -> None:
    """Run one daemon."""
    remaining = int(count)

    def at(passed: str) -> None:
        nonlocal remaining
        if passed == point:
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    settings = load_config(Path(config))
    results = ResultsDirectory(settings.results, at, grace=timedelta(0), most_loose=4)
    watch(settings, once=True, results=results)


if __name__ == "__main__":
    main(*sys.argv[1:])
