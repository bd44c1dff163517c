"""Runs as a whole, from the first checkpoint to rest: a whole daemon in this process, that measures for real."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from making import START
from running.shop import Puppet
from seeing.post import Post

from sounding import Checkpoint, Finding, Metric, Reading, plugin
from sounding.asking.query import connect, named_in
from sounding.deciding.policy import wishes_of
from sounding.keeping.requests import request_redo
from sounding.logs.reading import read_logs
from sounding.measuring import measure as measuring
from sounding.measuring.collecting import Found
from sounding.measuring.describing import describe_loaded
from sounding.measuring.discovery import assemble, load
from sounding.passes import Checkpoints, History, Logs
from sounding.running import worker
from sounding.running.clerk import Clerk
from sounding.running.crew import Crew
from sounding.running.dispatch import Limits
from sounding.running.foreman import Foreman
from sounding.running.lock import Lock
from sounding.running.loop import Daemon
from sounding.running.worker import Call
from sounding.seeing.watch import Bell, Watch

CONFIG = """
[[stores]]
path = "runs"
pattern = "{run}/ckpt_{step}.pt"
logs = ["{run}/log.jsonl"]

[daemon]
events = false
scan_seconds = 5.0
idle_seconds = 30.0
retry_seconds = 0.0
"""


def metric(name: str) -> Metric:
    return Metric(name, unit="1", meaning=name, source="this test")


@plugin(version=1, metrics=[metric("double")])
def level(checkpoint: Checkpoint) -> Iterator[Finding]:
    yield Reading("double", 2.0 * checkpoint.step)


@plugin(version=1, over="run", metrics=[metric("sum"), metric("count"), metric("readable")])
def trend(history: History, checkpoints: Checkpoints) -> Iterator[Finding]:
    course = history.course("level.double")
    assert course is not None
    assert list(course.values) == [2.0 * step for step in course.steps]
    yield Reading("sum", float(course.values.sum()))
    yield Reading("count", len(course.steps))
    yield Reading("readable", len(checkpoints))


@plugin(version=1, over="run", metrics=[metric("rows"), metric("last")])
def logged(logs: Logs) -> Iterator[Finding]:
    yield Reading("rows", len(logs["loss"].values))
    yield Reading("last", float(logs["loss"].updates[-1]))


PLUGINS = (level, trend, logged)


class Direct(Puppet):
    """A worker in this process: it answers what it is told at once."""

    def send(self, call: Call, limits: Limits, now: float) -> None:
        self.heard.append(call)
        self.ends.append(worker._answer(call))


class RunLab(Post):
    """A store, a log and a daemon whose clock is set by the test."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        found = [Found(each, "sounding: passes") for each in load().passes.values()]
        loaded = assemble([*found, *(Found(each, "tests: plugins") for each in PLUGINS)])
        assert loaded.refusals == ()
        self.catalogue = describe_loaded(loaded, {}, {})
        patch.setattr(measuring, "measure", functools.partial(measuring.measure, loaded=loaded))
        super().__init__(path, CONFIG)
        self.results = replace(self.results, most_loose=16)  # so that files are folded while the run is measured
        self.start()

    def start(self) -> None:
        """Begin a life of the daemon."""
        self.restart()
        self.journal.write_settings(self.catalogue, START)
        self.ledger.refresh()
        crew, bell = Crew(self.results, [Direct("worker")], Limits(60.0, 1 << 30), "epoch"), Bell()
        self.foreman = Foreman(self.settings, self.ledger, self.lookout, wishes_of(self.catalogue, self.settings))
        self.daemon = Daemon(
            self.settings, self.results, self.ledger, self.journal, self.lookout, self.foreman, crew, self.catalogue,
            bell, Watch(bell), Lock(self.results.path), Clerk(self.settings, self.results, read_logs),
        )  # fmt: skip

    def close(self) -> None:
        self.daemon.close()
        self.daemon.watch.close()
        self.daemon.bell.close()

    def save(self, *steps: int) -> None:
        for step in steps:
            self.write(f"a/ckpt_{step}.pt", f"content of {step}")

    def log(self, *updates: int) -> None:
        with (self.runs / "a" / "log.jsonl").open("a") as file:
            file.writelines(f'{{"step": {update}, "loss": {1 / update}}}\n' for update in updates)

    def run(self, seconds: float, step: float = 2.0) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            self.daemon.tick(self.now, START + timedelta(seconds=self.now))

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with connect(self.results.path, named_in(sql)) as connection:
            return connection.execute(sql).fetchall()

    def measured(self, name: str) -> list[tuple[object, ...]]:
        """Every time the run was measured by a plugin, in order: how it ended, horizon, members, rows."""
        return self.ask(
            f"SELECT status, horizon, members, log_rows FROM outcomes_all WHERE plugin = '{name}' ORDER BY seq"
        )


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunLab]:
    made = RunLab(tmp_path, monkeypatch)
    yield made
    made.close()


def test_a_run_is_measured_when_there_is_enough_when_it_has_grown_and_at_rest_once_each(lab: RunLab):
    for step in range(1, 13):
        lab.save(step)
        lab.run(4)
    # Members are readings and checkpoints that can be opened: 10 with the fifth of both, and a tenth is one more.
    first = lab.measured("trend")
    assert first[0] == ("ok", 5, 10, 0)
    assert all(before[2] < after[2] for before, after in pairwise(first))
    assert first[-1] == ("ok", 11, 22, 0), "less than a tenth has come since"
    lab.run(24)
    assert lab.measured("trend") == first, "not yet at rest"
    lab.run(10)
    assert lab.measured("trend") == [*first, ("ok", 12, 24, 0)]
    lab.save(13)
    lab.run(100)
    assert lab.measured("trend") == [*first, ("ok", 12, 24, 0), ("ok", 13, 26, 0)]
    lab.run(100, step=5.0)
    assert len(lab.measured("trend")) == len(first) + 2

    assert lab.ask("SELECT metric, value, step, horizon FROM readings WHERE plugin = 'trend' ORDER BY metric") == [
        ("count", 13.0, 13, 13),
        ("readable", 13.0, 13, 13),
        ("sum", 182.0, 13, 13),
    ]
    assert len(lab.ask("FROM readings_all WHERE plugin = 'trend' AND metric = 'sum'")) == len(first) + 2
    assert lab.measured("logged") == [], "nothing was logged, so nothing is owed"


def test_after_a_restart_nothing_is_measured_twice_and_the_rest_is_still_seen(lab: RunLab):
    lab.save(*range(1, 13))
    lab.run(40)
    before = lab.measured("trend")
    assert before[-1] == ("ok", 12, 24, 0)
    lab.close()
    lab.start()
    lab.run(200)
    assert lab.measured("trend") == before
    lab.close()
    lab.save(13)
    lab.start()
    lab.run(40)
    assert lab.measured("trend") == [*before, ("ok", 13, 26, 0)]


def test_a_log_that_grows_owes_its_plugin_again_and_keeps_the_run_from_rest(lab: RunLab):
    lab.save(1)
    lab.log(*range(10, 210, 10))
    lab.run(10)
    assert lab.measured("logged") == [("ok", 200, 0, 20)]
    lab.log(210)
    lab.run(25)
    assert len(lab.measured("logged")) == 1
    lab.log(220)
    lab.run(10)
    assert lab.measured("logged") == [("ok", 200, 0, 20), ("ok", 220, 0, 22)], "a tenth more"
    lab.log(230)
    lab.run(25)
    assert len(lab.measured("logged")) == 2
    assert lab.measured("trend") == [], "the run still logs"
    lab.run(20)
    assert lab.measured("logged")[2:] == [("ok", 230, 0, 23)], "once more at rest"
    assert lab.measured("trend") == [("ok", 1, 2, 0)]
    lab.run(100)
    assert len(lab.measured("logged")) == 3
    assert lab.ask("SELECT metric, value FROM readings WHERE plugin = 'logged' ORDER BY metric") == [
        ("last", 230.0),
        ("rows", 23.0),
    ]


def test_deleted_checkpoints_stay_in_the_history_and_owe_nothing(lab: RunLab):
    lab.save(*range(1, 13))
    lab.run(40)
    before = len(lab.measured("trend"))
    for step in range(1, 11):
        (lab.runs / "a" / f"ckpt_{step}.pt").unlink()
    lab.run(100)
    assert len(lab.measured("trend")) == before
    lab.save(13)
    lab.run(100)
    assert lab.measured("trend")[before:] == [("ok", 13, 16, 0)]
    assert lab.ask("SELECT value FROM readings WHERE metric IN ('count', 'readable') ORDER BY metric") == [
        (13.0,),
        (3.0,),
    ]


def test_redo_measures_the_run_as_it_is_now_once(lab: RunLab):
    lab.save(*range(1, 13))
    lab.run(40)
    before = len(lab.measured("trend"))
    request_redo(lab.results.path, plugin="trend")
    lab.run(50)
    assert [row[0] for row in lab.measured("trend")[before:]] == ["redo", "ok"]
    assert lab.ask("SELECT value FROM readings WHERE metric = 'sum'") == [(156.0,)]


def test_results_that_were_folded_meanwhile_give_the_same(lab: RunLab):
    lab.save(*range(1, 13))
    while not any(name.startswith("fold-") for name in lab.results.files()):
        lab.run(11)
        folding = lab.daemon._folding
        assert folding is not None
        folding.result()
    lab.save(13)
    lab.run(60)
    assert lab.measured("trend")[-1] == ("ok", 13, 26, 0)
    assert lab.ask("SELECT value FROM readings WHERE metric = 'sum'") == [(182.0,)]
