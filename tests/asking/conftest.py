"""A results directory written step by step with the product's own rows and writer."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import making
import pytest
from making import START

from sounding.asking.query import connect, named_in
from sounding.keeping.rows import Row, attribute_row, outcome_row, result_rows, setting_row, verdict_row
from sounding.records import (
    Attribute,
    Checkpoint,
    Ending,
    Examination,
    Fact,
    Finding,
    Job,
    Key,
    MetricSheet,
    OptionSheet,
    Outcome,
    PluginSheet,
    Progress,
    Reading,
    State,
    Subject,
    Task,
    TaskResult,
    Verdict,
)


class Lab:
    """Publishes what a daemon would, one file per call; every call takes the next sequence number."""

    def __init__(self, path: Path) -> None:
        self.results = making.results_in(path)
        self._seq = itertools.count(1)
        self.seq = 0

    def publish(self, make: Callable[[int, datetime], Sequence[Row]]) -> str:
        self.seq = next(self._seq)
        return making.publish(self.results, make(self.seq, START + timedelta(seconds=self.seq)), self.seq)

    def checkpoint(self, run: str = "a", step: int = 0, content: str = "") -> Checkpoint:
        progress = Progress(step=Fact(step, "path"), updates=Fact(step * 2, "optimizer.state.step"))
        path = f"/lab/{run}/{step}.pt"
        return making.checkpoint(
            step, run, checkpoint_id=f"{run}-{step}-{content}", store="lab", path=path, progress=progress
        )

    def sheet(self, plugin: str, version: int = 1, options_hash: str = "o") -> PluginSheet:
        metrics = tuple(MetricSheet(name, "nat", "", "") for name in ("loss", "norm", "regime"))
        options = (OptionSheet("top_k", "int", 1, 10),)
        return making.sheet(plugin, version=version, metrics=metrics, options=options, options_hash=options_hash)

    def subject(self, checkpoint: Checkpoint, other: Checkpoint | None = None, model: str = "") -> Subject:
        first = Subject("pair" if other else "checkpoint", "lab", checkpoint.run, checkpoint.step, "", model)
        first = dataclasses.replace(first, checkpoint_id=checkpoint.checkpoint_id)
        if other is None:
            return first
        return dataclasses.replace(
            first, other_run=other.run, other_step=other.step, other_checkpoint_id=other.checkpoint_id
        )

    def measured(
        self,
        plugin: str,
        checkpoint: Checkpoint,
        *found: float | Finding,
        version: int = 1,
        options_hash: str = "o",
        basis: str = "b",
        ending: Ending = Ending.OK,
        attempt: int = 1,
        other: Checkpoint | None = None,
        model: str = "",
        reason: str = "",
    ) -> str:
        findings = tuple(Reading("loss", value) if isinstance(value, float) else value for value in found)
        subject = self.subject(checkpoint, other, model)
        task = Task(Key(plugin, version, options_hash, basis, subject.identity), subject, {}, attempt)
        sheet = self.sheet(plugin, version, options_hash)
        result = TaskResult(task, ending, reason, findings, 0.5, "probe", 3, "float32", "cpu")
        return self.publish(lambda seq, at: result_rows(Job(seq, checkpoint, (task,)), result, sheet, at, 1000))

    def measured_run(
        self,
        plugin: str,
        run: str,
        horizon: int,
        *found: Finding,
        ending: Ending = Ending.OK,
        version: int = 1,
        model: str = "",
    ) -> str:
        subject = Subject("run", "lab", run, horizon, f"{run} to {horizon}", model, horizon=horizon, members=horizon)
        task = Task(Key(plugin, version, "o", "b", subject.identity), subject, {})
        result = TaskResult(task, ending, "because", found, 0.5)
        sheet, last = self.sheet(plugin, version), self.checkpoint(run, horizon)
        return self.publish(lambda seq, at: result_rows(Job(seq, last, (task,)), result, sheet, at, 1000))

    def ended(self, plugin: str, checkpoint: Checkpoint, ending: Ending, reason: str, attempt: int = 1) -> str:
        subject = self.subject(checkpoint)
        key = Key(plugin, 1, "o", "b", subject.identity)
        return self.publish(
            lambda seq, at: [outcome_row(Outcome(key, subject, ending, reason, attempt, seq, at))],
        )

    def setting(self, plugin: str, version: int = 1, options_hash: str = "o") -> str:
        return self.publish(lambda seq, at: [setting_row(self.sheet(plugin, version, options_hash), seq, at)])

    def attribute(self, run: str, key: str, text: str, source: str = "path", number: float | None = None) -> str:
        return self.publish(lambda seq, at: [attribute_row("lab", run, Attribute(key, number, text, source), seq, at)])

    def verdict(self, checkpoint: Checkpoint, state: State, reason: str = "") -> str:
        complete = state is State.COMPLETE
        sighting = making.sighting(
            checkpoint.step, checkpoint.run, store="lab", path=checkpoint.path, stamp=checkpoint.stamp
        )
        verdict = Verdict(state, reason)
        examined = Examination(verdict, format="torch zip") if complete else None
        return self.publish(
            lambda seq, at: [verdict_row(sighting, verdict, checkpoint if complete else None, examined, at, seq)]
        )

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with connect(self.results.path, named_in(sql)) as connection:
            return connection.execute(sql).fetchall()

    def fold_everything(self) -> None:
        """Bring the number of loose files above the threshold with files of no effect, and fold."""
        for _ in range(65):
            self.attribute("filler", "filler", "x")
        assert self.results.fold(START) is not None


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")
