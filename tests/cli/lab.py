"""A small lab whose readings were written by hand, so that what the commands print is known beforehand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from commands import invoke
from typer.testing import Result

from sounding.keeping.results import ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import attribute_row, result_rows, verdict_row
from sounding.records import (
    Attribute,
    Checkpoint,
    Ending,
    Examination,
    Fact,
    FileStamp,
    Finding,
    Job,
    Key,
    MetricSheet,
    PluginSheet,
    Progress,
    Sighting,
    State,
    Subject,
    Task,
    TaskResult,
    Verdict,
)

MOMENT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
STEPS = (0, 100, 200, 300)
LOSSES = {"train": (2.302, 1.0, 0.5, 0.25), "heldout": (2.310, 1.2, 0.9, 0.8)}
CONFIG = '[[stores]]\npath = "runs"\npattern = "{run}/ckpt_{step}.pt"\n'


def sheet(name: str, *metrics: MetricSheet) -> PluginSheet:
    return PluginSheet(
        name, 1, "checkpoint", None, "weights", f"What {name} is.", "tests", metrics, (), "o1", (), False, ""
    )


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

    def publish(self, rows: Sequence[dict[str, object]]) -> None:
        directory = ResultsDirectory(self.results)
        directory.prepare()
        self.seq += 1
        written = directory.tmp / tmp_name("test", self.seq)
        write_rows(written, [{**row, "seq": self.seq} for row in rows])
        directory.publish(written, self.seq)

    def see(
        self, run: str, step: int, state: State = State.COMPLETE, reason: str = "whole", store: str = "runs"
    ) -> None:
        path = str(self.path / "runs" / run / f"ckpt_{step}.pt")
        stamp = (FileStamp("", step, 1_500_000, 0),)
        sighting = Sighting(store, run, path, step, {}, stamp)
        progress = Progress(step=Fact(step, "path"), lr_stored=Fact(0.1, "optimizer.param_groups"))
        examination = Examination(Verdict(state, reason), format="torch zip", fingerprint="f", progress=progress)
        whole = state is State.COMPLETE
        checkpoint = checkpoint_of(self.path, run, step, store) if whole else None
        self.publish([verdict_row(sighting, Verdict(state, reason), checkpoint, examination, MOMENT, 0)])

    def record(self, plugin: PluginSheet, run: str, step: int, *findings: Finding, store: str = "runs") -> None:
        checkpoint = checkpoint_of(self.path, run, step, store)
        subject = Subject("checkpoint", store, run, step, checkpoint.checkpoint_id)
        key = Key(plugin.name, plugin.version, plugin.options_hash, "b1", subject.identity)
        job = Job(0, checkpoint, (Task(key, subject, {}),))
        result = TaskResult(job.tasks[0], Ending.OK, findings=findings, wall_seconds=0.1, dtype="float32", device="cpu")
        self.publish(result_rows(job, result, plugin, MOMENT, 1))

    def attribute(self, run: str, key: str, number: float) -> None:
        found = Attribute(key, number, f"{number:g}", "checkpoint:args")
        self.publish([attribute_row("runs", run, found, 0, MOMENT)])


def checkpoint_of(lab: Path, run: str, step: int, store: str) -> Checkpoint:
    path = str(lab / "runs" / run / f"ckpt_{step}.pt")
    stamp = (FileStamp("", step, 1_500_000, 0),)
    progress = Progress(step=Fact(step, "path"))
    name = f"{store}-{run}-{step}".encode().hex()
    return Checkpoint(name, store, run, step, path, "torch zip", "f", stamp, step, MOMENT, progress)
