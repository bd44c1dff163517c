"""Records of a small lab, made from the few values that a test is about."""

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sounding.config import Settings, load_config
from sounding.deciding.patience import Patience
from sounding.deciding.plan import RunView, Wish, checkpoint_identity
from sounding.keeping.logbook import LogRows, write_logs
from sounding.keeping.results import ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import Row
from sounding.records import (
    Checkpoint,
    Ending,
    Examination,
    Fact,
    FileStamp,
    Key,
    MetricSheet,
    Outcome,
    PassSheet,
    PluginSheet,
    Progress,
    Sighting,
    Stamp,
    State,
    Subject,
    Task,
    TaskResult,
    Verdict,
)
from sounding.schedule import parse_schedule

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
CONFIG = '[[stores]]\npath = "runs"\npattern = "{run}/ckpt_{step}.pt"\n'
PATIENCE = Patience(3, timedelta(seconds=30))


def settings_in(path: Path, text: str = CONFIG, *, make_stores: bool = True) -> Settings:
    (path / "sounding.toml").write_text(text, encoding="utf-8")
    settings = load_config(path / "sounding.toml")
    for store in settings.stores if make_stores else ():
        store.path.mkdir(parents=True, exist_ok=True)
    return settings


def stamp(size: int = 100, mtime_ns: int = 1) -> Stamp:
    return (FileStamp("", 7, size, mtime_ns),)


def sighting(step: int | None = 10, run: str = "a", size: int = 100, mtime_ns: int = 1, **fields: Any) -> Sighting:
    made = Sighting("runs", run, f"/lab/runs/{run}/ckpt_{step}.pt", step, {}, stamp(size, mtime_ns))
    return dataclasses.replace(made, **fields)


def checkpoint(step: int = 10, run: str = "a", content: str = "", **fields: Any) -> Checkpoint:
    fingerprint = f"{run}/{step}/{content}"
    made = Checkpoint(
        checkpoint_identity("runs", run, step, fingerprint),
        "runs",
        run,
        step,
        f"/lab/runs/{run}/ckpt_{step}.pt",
        "torch zip",
        fingerprint,
        stamp(),
        step,
        START + timedelta(seconds=step),
        Progress(step=Fact(step, "path")),
    )
    return dataclasses.replace(made, **fields)


def complete(fingerprint: str, step: int | None = None, *, needs_quiet: bool = False) -> Examination:
    progress = Progress() if step is None else Progress(step=Fact(step, "iter_num"))
    verdict = Verdict(State.COMPLETE, "proven whole")
    return Examination(verdict, needs_quiet, "torch zip", fingerprint, progress)


def sheet(name: str = "norm", **fields: Any) -> PluginSheet:
    metrics = (MetricSheet("frobenius", "weight", "Frobenius norm", "definition"),)
    made = PluginSheet(name, 1, "checkpoint", None, "weights", "", "tests", metrics, (), "o", (), False, "")
    return dataclasses.replace(made, **fields)


def pair(name: str = "change", against: str = "previous", **fields: Any) -> PluginSheet:
    return sheet(name, over="pair", against=against, **fields)


def uses(*names: str, version: int = 1) -> tuple[PassSheet, ...]:
    return tuple(PassSheet(name, version, "p") for name in sorted(names))


def wish(of: PluginSheet, at: str = "all") -> Wish:
    return Wish(of, parse_schedule(at))


def view(readable: Iterable[Checkpoint], history: Iterable[Checkpoint] = (), **fields: Any) -> RunView:
    here = {known.step: known for known in readable}
    ever = {known.step: known for known in history} | here
    made = RunView("runs", "a", tuple(here[step] for step in sorted(here)), tuple(ever[step] for step in sorted(ever)))
    return dataclasses.replace(made, **fields)


def outcome(
    key: Key,
    subject: Subject,
    ending: Ending = Ending.OK,
    *,
    attempt: int = 1,
    seq: int = 1,
    at: datetime = START,
    excused: int = 0,
) -> Outcome:
    return Outcome(key, subject, ending, "because", attempt, seq, at, excused)


def publish(results: ResultsDirectory, rows: Iterable[Row], seq: int) -> str:
    temporary = results.tmp / tmp_name("test", seq)
    write_rows(temporary, [{**row, "seq": seq} for row in rows])
    return results.publish(temporary, seq)


def publish_logs(
    results: ResultsDirectory,
    seq: int,
    logged: Iterable[tuple[str, int, int, str, float]],
    *,
    source: str = "s",
    run: str = "a",
    first: int = 0,
) -> str:
    """Values of a log: file, attempt, updates, key and value of each, in the order logged from entry `first` on."""
    rows = LogRows()
    for entry, (file, attempt, updates, key, value) in enumerate(logged, first):
        rows.add(("lab", run, source, file), attempt, updates, entry, [(key, value)])
    temporary = results.tmp / tmp_name("test-logs", seq)
    write_logs(temporary, rows, [], seq, START)
    return results.logs.publish(temporary, seq)


def results_in(path: Path) -> ResultsDirectory:
    results = ResultsDirectory(path)
    results.prepare()
    return results


def task_on(of: Checkpoint, by: PluginSheet, options: Mapping[str, object] | None = None) -> Task:
    subject = Subject("checkpoint", of.store, of.run, of.step, of.checkpoint_id)
    return Task(Key(by.name, by.version, by.options_hash, "b", subject.identity), subject, options or {}, cost=by.cost)


def ended(task: Task, ending: Ending = Ending.OK, reason: str = "") -> TaskResult:
    return TaskResult(task, ending, reason)
