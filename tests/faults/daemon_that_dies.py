"""A daemon that is killed at a named point: the process under test of the fault tests.

It is forked from a process that has imported torch, and so is its forkserver, which otherwise would take seconds to
import it in every life; and it finds no pandas, as on a machine without it, which pyarrow would import where it can.
In all else they are what a daemon started from a shell has: processes, pipes and a lock of their own. A cold one
starts from nothing, as a shell would start it; `make soak` takes those.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.abc import MetaPathFinder
from itertools import pairwise
from multiprocessing import forkserver, util
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path

from sounding.running import dispatch


def start(config: Path, point: str, count: int, *, cold: bool) -> ForkServerProcess | SpawnProcess:
    """A daemon that measures what is there and leaves, or dies by SIGKILL at the `count`-th passage of `point`."""
    context = multiprocessing.get_context("spawn") if cold else dispatch.context()
    process = context.Process(target=_live, args=(config, point, count, cold))
    process.start()
    return process


def _live(config: Path, point: str, count: int, cold: bool) -> None:
    if not cold:
        sys.meta_path.insert(0, _WithoutPandas())
        _start_forkserver_by_fork()
    from sounding.config import load_config
    from sounding.keeping.results import ResultsDirectory
    from sounding.running.service import watch

    settings = load_config(config)
    results = ResultsDirectory(settings.results, _death(point, count), grace=timedelta(0), most_loose=4)
    watch(settings, once=True, results=results)


class _WithoutPandas(MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _death(point: str, count: int) -> Callable[[str], None]:
    remaining = count

    def at(passed: str) -> None:
        nonlocal remaining
        if passed == point:
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return at


def _start_forkserver_by_fork() -> None:
    """Called while this process has one thread; a forkserver that is killed later is started anew in the usual way."""
    usual = util.spawnv_passfds
    util.spawnv_passfds = _fork
    try:
        dispatch.context()
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = usual


def _fork(path: str, arguments: Sequence[str], kept: Sequence[int]) -> int:
    """Be the forkserver that the arguments tell of: the same files are left open, and nothing need be imported."""
    assert "forkserver" in arguments[-1]
    pid = os.fork()
    if pid:
        return pid
    try:
        bounds = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
        for lower, upper in pairwise(bounds):
            os.closerange(lower + 1, upper)
        forkserver.main(*kept, [])
    finally:
        os._exit(0)
