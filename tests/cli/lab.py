"""A small lab whose readings were written by hand, so that what the commands print is known beforehand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import making
from commands import invoke
from typer.testing import Result

from sounding.keeping.rows import Row, attribute_row, result_rows, verdict_row
from sounding.records import (
    Attribute,
    Checkpoint,
    Examination,
    Fact,
    FileStamp,
    Finding,
    Job,
    MetricSheet,
    PluginSheet,
    Progress,
    State,
    Verdict,
)

MOMENT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
STEPS = (0, 100, 200, 300)
LOSSES = {"train": (2.302, 1.0, 0.5, 0.25), "heldout": (2.310, 1.2, 0.9, 0.8)}
CONFIG = making.CONFIG


def sheet(name: str, *metrics: MetricSheet) -> PluginSheet:
    return making.sheet(name, summary=f"What {name} is.", metrics=metrics)


LOSS = sheet("loss", MetricSheet("loss", "nat", "mean loss", "definition"))
NORM = sheet("weight_norm", MetricSheet("frobenius", "weight", "norm", "definition"))


@dataclass
class Lab:
    """A directory with a configuration and results, and a way to run commands in it."""

    path: Path
    seq: int = 0

    @property
    def results(self) -> Path:
        return self.path / ".sounding"

    def run(self, *arguments: str, code: int = 0, stdin: str | None = None) -> str:
        result = self.outcome(*arguments, stdin=stdin)
        assert result.exit_code == code, result.output
        return result.stdout

    def outcome(self, *arguments: str, stdin: str | None = None) -> Result:
        return invoke(self.path, *arguments, stdin=stdin)

    def error(self, *arguments: str, code: int = 1) -> str:
        result = self.outcome(*arguments)
        assert result.exit_code == code, result.output
        return result.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def publish(self, rows: Sequence[Row]) -> None:
        self.seq += 1
        making.publish(making.results_in(self.results), rows, self.seq)

    def see(
        self, run: str, step: int, state: State = State.COMPLETE, reason: str = "whole", store: str = "runs"
    ) -> None:
        known = self.checkpoint(run, step, store)
        sighting = making.sighting(step, run, store=store, path=known.path, stamp=known.stamp)
        progress = Progress(step=Fact(step, "path"), lr_stored=Fact(0.1, "optimizer.param_groups"))
        verdict = Verdict(state, reason)
        examination = Examination(verdict, format="torch zip", fingerprint="f", progress=progress)
        checkpoint = known if state is State.COMPLETE else None
        self.publish([verdict_row(sighting, verdict, checkpoint, examination, MOMENT, 0)])

    def record(self, plugin: PluginSheet, run: str, step: int, *findings: Finding, store: str = "runs") -> None:
        checkpoint = self.checkpoint(run, step, store)
        task = making.task_on(checkpoint, plugin)
        result = replace(making.ended(task), findings=findings, wall_seconds=0.1, dtype="float32", device="cpu")
        self.publish(result_rows(Job(0, checkpoint, (task,)), result, plugin, MOMENT, 1))

    def attribute(self, run: str, key: str, number: float) -> None:
        found = Attribute(key, number, f"{number:g}", "checkpoint:args")
        self.publish([attribute_row("runs", run, found, 0, MOMENT)])

    def checkpoint(self, run: str, step: int, store: str) -> Checkpoint:
        path = str(self.path / "runs" / run / f"ckpt_{step}.pt")
        stamp = (FileStamp("", step, 1_500_000, 0),)
        name = f"{store}-{run}-{step}".encode().hex()
        return making.checkpoint(
            step, run, checkpoint_id=name, store=store, path=path, fingerprint="f", stamp=stamp, first_seen=MOMENT
        )
