"""The child's side: a killable process that calls what its parent names and answers through a pipe.

Everything foreign happens here — files written by strangers, recipes, plugins. The child owns nothing that matters: it
writes one temporary file, which only the parent can publish, and it dies with its parent.
"""

import ctypes
import errno
import importlib
import os
import signal
import sys
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sounding.errors import SoundingError
from sounding.measuring.collecting import WITHOUT
from sounding.records import Job, PluginSheet, TaskResult
from sounding.running.gauge import Gauge
from sounding.running.heap import give_back, keep_freed
from sounding.running.holding import held, told_of_originals

_PR_SET_PDEATHSIG = 1
_ORPHANED = 3  # exit code of a child whose parent died


class UnwrittenError(SoundingError):
    """Results could not be written: nothing that a plugin or a checkpoint is to blame for."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"a worker cannot write: {error.strerror or error}")
        self.number = error.errno or errno.EIO


@dataclass(frozen=True, slots=True)
class Call:
    """A request: the function to call, as "module:function", and its arguments."""

    target: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the call returned, or the message of what it raised."""

    value: Any = None
    error: str = ""
    refused: int = 0  # error number of the disk that refused to take the results


@dataclass(frozen=True, slots=True)
class NotNow:
    """A job that was not begun, and what it waits for: nobody's failure, and no attempt."""

    reason: str


def serve(connection: Connection, nice: int, threads: int, without: tuple[str, ...]) -> None:
    """Answer calls until the pipe closes; the entry point of every child."""
    _become_killable(nice)
    keep_freed()
    os.environ[WITHOUT] = ",".join(without)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_interop_threads(1)
    while True:
        try:
            call = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        connection.send(_answer(call))
        give_back()


def perform(job: Job, temporary: str, sheets: dict[str, PluginSheet]) -> tuple[TaskResult, ...] | NotNow:
    """Measure a job and write its one file of results to `temporary`; returns what came of each task, without findings.

    No file is written when the checkpoint changed under the job, when it has no task, or when it was not begun.
    """
    from sounding.keeping.results import write_rows
    from sounding.keeping.rows import result_rows
    from sounding.measuring.devices import NoRoom, choose_device, explained, release
    from sounding.measuring.measure import measure

    # Without a model nothing is computed on a device, and a GPU is not even looked at.
    wanted = job.device if any(sheets[task.key.plugin].needs_recipe for task in job.tasks) else "cpu"
    size = sum(checkpoint.size_bytes for checkpoint in (job.checkpoint, *job.others))
    try:
        job = replace(job, device=choose_device(wanted, size, job.headroom))
    except NoRoom as error:
        return NotNow(str(error))
    with Gauge() as gauge, held(job, only_weights=job.hold is not None and _reads_only_weights(job)) as held_job:
        results = [explained(result, job.device) for result in told_of_originals(held_job, measure(held_job))]
    release(job.device)
    now, peak = datetime.now(UTC), gauge.peak_bytes
    rows = [row for result in results for row in result_rows(job, result, sheets[result.task.key.plugin], now, peak)]
    try:
        write_rows(Path(temporary), rows)
    except OSError as error:
        raise UnwrittenError(error) from error
    return tuple(
        TaskResult(result.task, result.ending, result.reason, wall_seconds=result.wall_seconds) for result in results
    )


def _reads_only_weights(job: Job) -> bool:
    from sounding.measuring.discovery import load
    from sounding.measuring.extent import reads_only_weights

    return reads_only_weights(load(), job)


def warm() -> None:
    """Import what every job needs, so that the first one does not wait for it."""
    for module in ("sounding.measuring.measure", "sounding.keeping.results", "sounding.keeping.rows"):
        importlib.import_module(module)
    from sounding.measuring.discovery import load

    load()


def _answer(call: Call) -> Answer:
    module, _, function = call.target.partition(":")
    try:
        return Answer(getattr(importlib.import_module(module), function)(*call.arguments))
    except UnwrittenError as error:
        return Answer(error=str(error), refused=error.number)
    except SoundingError as error:
        return Answer(error=str(error))
    except Exception as error:  # noqa: BLE001 - foreign code; the parent turns the message into a record
        return Answer(error=f"{type(error).__name__}: {error}")


def _become_killable(nice: int) -> None:
    """Own process group, low priority, deaf to the terminal's Ctrl-C, and gone when the parent is gone."""
    os.setpgid(0, 0)
    if nice:
        os.nice(nice)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    if sys.platform == "linux":
        # A thread cannot run while native code holds the interpreter lock; the kernel can still end the process.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(_ORPHANED)
