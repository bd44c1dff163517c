"""A whole daemon in the process of the test: real stores and results, and one worker that answers at once."""

import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from making import START, sheet, wish
from running.shop import Puppet
from seeing.post import QUIET_CONFIG, Post

from sounding.errors import SoundingError
from sounding.keeping.nouns import read_outcome
from sounding.logs.reading import LogsRead
from sounding.records import Catalogue, Ending, Job, Outcome, Reading, TaskResult
from sounding.running import worker
from sounding.running.clerk import Clerk
from sounding.running.crew import Crew
from sounding.running.dispatch import Limits
from sounding.running.foreman import Foreman
from sounding.running.lock import Lock
from sounding.running.loop import Daemon
from sounding.running.status import Status
from sounding.running.tell import tell
from sounding.running.worker import Call
from sounding.seeing.watch import Bell, Watch

NORM = sheet("norm")
CONFIG = QUIET_CONFIG + "[daemon]\nevents = false\nscan_seconds = 2.0\n"


def nothing_read(*_: object) -> LogsRead:
    raise AssertionError("no store of these tests has logs")


class Worker(Puppet):
    """Performs jobs when they are sent, with the step for a reading."""

    at_work = False
    measured: list[int]

    def send(self, call: Call, limits: Limits, now: float) -> None:
        self.at_work = True
        self.ends.append(worker._answer(call))
        self.at_work = False

    def measure(self, job: Job) -> list[TaskResult]:
        self.measured.append(job.checkpoint.step)
        found = (Reading("frobenius", float(job.checkpoint.step)),)
        return [TaskResult(task, Ending.OK, "", found) for task in job.tasks]


class Helm:
    """The daemon and its clock; nothing happens but by `run`."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch, config: str = CONFIG) -> None:
        self.post = Post(path, config)
        self.settings, self.results = self.post.settings, self.post.results
        self.worker = Worker("worker")
        self.worker.measured = []
        # The real ones import torch, which takes seconds.
        patch.setitem(sys.modules, "sounding.measuring.measure", SimpleNamespace(measure=self.worker.measure))
        devices = SimpleNamespace(
            NoRoom=SoundingError,
            choose_device=lambda device, *rest: device,
            explained=lambda result, device: result,
            release=lambda device: None,
        )
        patch.setitem(sys.modules, "sounding.measuring.devices", devices)
        self.now = 1000.0
        self.start()

    def start(self) -> None:
        """Begin a life of the daemon."""
        self.post.restart()
        self.post.now = self.now
        ledger, lookout, bell = self.post.ledger, self.post.lookout, Bell()
        crew = Crew(self.results, [self.worker], Limits(60.0, 1 << 30), "epoch")
        foreman = Foreman(self.settings, ledger, lookout, (wish(NORM),))
        self.daemon = Daemon(
            self.settings, self.results, ledger, self.post.journal, lookout, foreman, crew, Catalogue({"norm": NORM}),
            bell, Watch(bell), Lock(self.results.path), Clerk(self.settings, self.results, nothing_read),
        )  # fmt: skip

    def close(self) -> None:
        self.daemon.close()
        self.daemon.watch.close()
        self.daemon.bell.close()

    def run(self, seconds: float = 10.0, step: float = 0.5) -> Status:
        """Let time pass; what the daemon says then."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.daemon.tick(self.now, START + timedelta(seconds=self.now))
        return self.status()

    def status(self) -> Status:
        return tell(self.daemon, START, "watching", "foreground")

    def readings(self) -> list[tuple[str, int, float]]:
        """Every reading ever published: run, step, value."""
        rows = self.results.read_rows(self.results.files(), ("reading",))
        return sorted((row["run"], row["step"], row["value"]) for row in rows)

    def outcomes(self) -> list[Outcome]:
        return [read_outcome(row) for row in self.results.read_rows(self.results.files(), ("outcome",))]
