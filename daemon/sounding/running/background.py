"""A daemon in the background, seen from the command line: starting it, and telling it to stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sounding.errors import SoundingError
from sounding.running.lock import Holder, Standing, holder, refusal
from sounding.running.logbook import LOG_FILE, Reader
from sounding.running.machine import Machine, this_machine
from sounding.running.status import Status, heard, read_status

if TYPE_CHECKING:
    from sounding.config import Settings

_LOOK_SECONDS = 0.1  # between two looks at a daemon that starts or stops
_LAST_WORDS = 12  # lines of the log shown of a daemon that died as it started


def start(settings: "Settings", timeout: float, progress: Callable[[float], None] = lambda seconds: None) -> Status:
    """Start a daemon in a session of its own and wait until it holds the lock and has looked at the stores once.

    `progress` is told the seconds waited. Raises SoundingError when a daemon works or may work on these results, when
    the new one dies (with its last words), and when it takes longer than `timeout` seconds.
    """
    results = settings.results
    known = holder(results)
    if known is not None and known.standing is not Standing.FREE:
        raise refusal(results, known)
    try:
        results.mkdir(parents=True, exist_ok=True)
        log = (results / LOG_FILE).open("ab")
    except OSError as error:
        raise SoundingError(f"{results}: cannot be written ({error.strerror}), so no daemon can work there.") from error
    reader = Reader(results)
    reader.last(0)
    with log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sounding.running.detached", str(settings.source.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # what plugins print is to be seen while they run
        )
    for waited in _ticks(timeout):
        status = _status_of(results, process.pid)
        if status is not None and status.state not in ("starting", "died"):
            return status
        if process.poll() is not None:
            words = "\n".join(f"  {entry.line}" for entry in list(reader.more())[-_LAST_WORDS:])
            raise SoundingError(f"the daemon ended as it started, with status {process.returncode}:\n{words}")
        progress(waited)
    raise SoundingError(
        f"pid {process.pid} has not looked at the stores within {timeout:g} s and goes on trying; "
        f"`sounding logs` shows what it says, `sounding stop` ends it."
    )


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a daemon ended; `status` is its last word, None where it said none."""

    holder: Holder
    seconds: float
    status: Status | None


def stop(
    results: Path,
    timeout: float,
    progress: Callable[[Holder, Status | None, float], None] = lambda holder, status, seconds: None,
    here: Machine | None = None,
) -> Stopped | None:
    """Tell the daemon to end and wait until it has; None when none is running.

    Raises SoundingError when it is on another machine, belongs to somebody else, or runs on after `timeout` seconds.
    """
    here = here or this_machine()
    known = holder(results, here)
    if known is None or known.standing is Standing.FREE:
        return None
    if not known.is_here(here):
        raise _out_of_reach(results, known)
    try:
        os.kill(known.pid, signal.SIGTERM)
    except PermissionError as error:
        raise SoundingError(f"{known.name} belongs to somebody else, who must stop it.") from error
    except ProcessLookupError:
        pass  # it ended just now
    for waited in _ticks(timeout):
        now = holder(results, here)
        if now is None or now.standing is not Standing.HELD or (now.pid, now.born) != (known.pid, known.born):
            return Stopped(known, waited, _status_of(results, known.pid))
        progress(known, _status_of(results, known.pid), waited)
    raise SoundingError(
        f"{known.name} still runs after {timeout:g} s. It was told to stop and will, once its job ends or its grace "
        f"is over; `kill -9 {known.pid}` loses nothing either."
    )


def _out_of_reach(results: Path, known: Holder) -> SoundingError:
    if known.standing is Standing.ELSEWHERE:
        return refusal(results, known)
    return SoundingError(
        f"{results}: the daemon runs on host {known.host} (pid {known.pid}), {heard(results)}; stop it there."
    )


def _status_of(results: Path, pid: int) -> Status | None:
    """The heartbeat, if it is this process's."""
    with suppress(SoundingError):  # an older version's, until the daemon writes its own
        status = read_status(results)
        return status if status is not None and status.pid == pid else None
    return None


def _ticks(timeout: float) -> Iterator[float]:
    """Seconds waited so far, at every look, until there is no time left."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) <= timeout:
        yield waited
        time.sleep(_LOOK_SECONDS)
