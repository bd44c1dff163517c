"""The parent's side of its children: starting them, deadlines, memory limits, and what a death looked like.

Children come from a forkserver that has imported torch and the engine, so a fresh one costs tens of milliseconds.
Deadline and memory limit live here, where nothing a child does can outlast them.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.forkserver import ensure_running
from typing import Any

from sounding.errors import SoundingError
from sounding.records import Ending
from sounding.running.gauge import anonymous_bytes
from sounding.running.worker import Answer, Call, serve

# What every child needs and what starts no thread as it is imported, as pyarrow does: a fork would lose it.
_PRELOAD = ("torch", "sounding.measuring.measure")
_RECYCLE_AFTER = 200  # calls; memory creeps in long-lived processes
_JOIN_SECONDS = 5.0
_POOLS = ("OMP", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR")  # libraries that count the cores for themselves as they load
_WAITING = "OMP_WAIT_POLICY"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take."""

    deadline_seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Death:
    """A call that ended with the life of its child."""

    ending: Ending  # crashed, timeout or memory
    reason: str


class Died(SoundingError):
    """A call ended with the life of its child; the message says how."""


def context() -> ForkServerContext:
    """The forkserver that children come from; it imports torch and never runs it, which would hang its children."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(list(_PRELOAD))
    return forkserver


@dataclass
class Child:
    """One killable child; at most one call at a time."""

    name: str
    nice: int = 0
    threads: int = 1
    without: tuple[str, ...] = ()  # plugin modules that its processes must not import
    calls: int = 0
    _process: ForkServerProcess | None = None
    _connection: Connection | None = None
    _limits: Limits | None = None
    _since: float = 0.0
    _peak_bytes: int = field(default=0)

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._limits is not None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.is_alive()

    @property
    def connection(self) -> Connection | None:
        """What to wait on for an answer; None before the first start."""
        return self._connection

    @property
    def pid(self) -> int | None:
        """Process id, for people and tests."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process if it is not running; blocks while the forkserver itself starts."""
        # Its pipe closes the moment a process dies; the forkserver tells of the death a little later. With no call
        # under way, there is nothing else to read.
        if self.alive and self._connection is not None and not self._connection.poll():
            return
        self.stop()
        forkserver = context()
        with _pools_of(self.threads):
            ensure_running()
        ours, theirs = multiprocessing.Pipe()
        process = forkserver.Process(
            target=serve,
            args=(theirs, self.nice, self.threads, self.without),
            name=f"sounding {self.name}",
            daemon=False,
        )
        process.start()
        theirs.close()
        self._process, self._connection, self.calls = process, ours, 0

    def send(self, call: Call, limits: Limits, now: float) -> None:
        """Begin a call; `poll` brings its end."""
        self.start()
        assert self._connection is not None
        self.calls += 1
        self._limits, self._since, self._peak_bytes = limits, now, 0
        try:
            self._connection.send(call)
        except OSError:
            return  # it died just now; `poll` finds it dead and says how

    def poll(self, now: float) -> Answer | Death | None:
        """How the call ended, or None while it runs; a child over its limits is killed here."""
        if self._limits is None or self._connection is None or self._process is None:
            return None
        try:
            if self._connection.poll():
                answer: Answer = self._connection.recv()
                self._limits = None
                if self.calls >= _RECYCLE_AFTER:
                    self.stop()
                return answer
        except (EOFError, OSError):
            return self._dead(None)
        if not self._process.is_alive() and not self._connection.poll():  # its last words may have come just now
            return self._dead(None)
        if now - self._since > self._limits.deadline_seconds:
            reason = f"still running after its deadline of {self._limits.deadline_seconds:g} s"
            return self._dead(Death(Ending.TIMEOUT, reason))
        self._peak_bytes = max(self._peak_bytes, anonymous_bytes(self._process.pid or 0))
        if self._peak_bytes > self._limits.memory_bytes:
            used, limit = self._peak_bytes >> 20, self._limits.memory_bytes >> 20
            return self._dead(Death(Ending.MEMORY, f"used {used} MiB of memory, over the limit of {limit} MiB"))
        return None

    def stop(self) -> None:
        """End the process and everything it started; a call under way is lost."""
        process, connection = self._process, self._connection
        self._process, self._connection, self._limits = None, None, None
        if connection is not None:
            connection.close()
        if process is not None:
            _kill_group(process.pid)
            process.join(_JOIN_SECONDS)

    def _dead(self, killed: Death | None) -> Death:
        process = self._process
        assert process is not None
        if killed is None:
            process.join(_JOIN_SECONDS)
            killed = Death(Ending.CRASHED, _describe_exit(process.exitcode))
        self.stop()
        return killed


def call_and_wait(child: Child, target: str, arguments: tuple[Any, ...], limits: Limits) -> Any:
    """Make one call and wait for its end.

    Raises SoundingError with the child's message, or Died with the manner of its death.
    """
    child.send(Call(target, arguments), limits, time.monotonic())
    while True:
        ended = child.poll(time.monotonic())
        if isinstance(ended, Death):
            raise Died(ended.reason)
        if isinstance(ended, Answer):
            if ended.error:
                raise SoundingError(ended.error)
            return ended.value
        if child.connection is not None:
            child.connection.poll(0.05)


@contextmanager
def _pools_of(threads: int) -> Iterator[None]:
    """Tell the forkserver, should it start in this block, how many threads the pools of its libraries may have.

    They count the cores once, as they are loaded: what a child says later is heard by torch alone, and numpy would
    take every core in every worker. Threads wait asleep unless the environment says otherwise: where training has the
    cores, one that waits in a loop for another that has none can take several times what the work itself does.
    """
    told = {f"{pool}_NUM_THREADS": str(threads) for pool in _POOLS}
    told[_WAITING] = os.environ.get(_WAITING, "PASSIVE")
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _kill_group(pid: int | None) -> None:
    if pid is None:
        return
    for kill in (os.killpg, os.kill):  # the group exists once the child has set itself up
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "the worker stopped answering"
    if code < 0:
        return f"the worker was killed by {signal.Signals(-code).name}"
    return f"the worker exited with status {code} in the middle of the job"
