"""The clerk: everything logged is in the results once, whenever the daemon dies, and only what changed is read."""

import errno
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from making import settings_in

from sounding.asking.query import connect
from sounding.config import Settings
from sounding.errors import SoundingError
from sounding.keeping.listing import is_fold
from sounding.keeping.logbook import read_places
from sounding.keeping.results import ResultsDirectory
from sounding.keeping.series import read_series
from sounding.logs.reading import LogsRead, read_logs
from sounding.running.clerk import Clerk, Read

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CONFIG = """
[[stores]]
path = "runs"
pattern = "{run}/checkpoint-{step}"
logs = ["{run}/train.jsonl", "checkpoint:trainer_state.json"]
"""


class Killed(BaseException):
    """Stands for the death of the process at a named point."""


def in_sight(*runs: str, newest: Mapping[str, Path] | None = None) -> Any:
    """A lookout that sees these runs, with the directory of a checkpoint of some."""
    complete = {("runs", run): str(path) for run, path in (newest or {}).items()}
    seen = [("runs", run) for run in runs]
    return SimpleNamespace(runs=lambda: seen, hidden=frozenset(), last_complete=lambda: complete)


def results_of(settings: Settings, at: Callable[[str], None] = lambda point: None) -> ResultsDirectory:
    results = ResultsDirectory(settings.results, at, grace=timedelta(0), most_loose=2)
    results.prepare()
    return results


def log(path: Path, *steps: int, value: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps({"step": step, "loss": value + step}) + "\n" for step in steps)


def turns(clerk: Clerk, lookout: Any, start: float = 0.0) -> float:
    """Turns until everything that is there has been read; the time at the end."""
    now = start + 1000.0
    clerk.turn(now, lookout)
    while not clerk.is_content:
        clerk.turn(now, lookout)
    return now


def recorded(results: ResultsDirectory) -> list[tuple[object, ...]]:
    with connect(results.path, ["logs"]) as connection:
        return connection.execute("FROM logs ORDER BY ALL").fetchall()


def test_logs_are_read_when_they_grew_and_not_otherwise(tmp_path: Path):
    settings = settings_in(tmp_path, CONFIG)
    asked: list[list[str]] = []

    def read(wanted: Any, *rest: Any) -> LogsRead:
        asked.append([log.name for log, _ in wanted])
        return read_logs(wanted, *rest)

    clerk = Clerk(settings, results_of(settings), read)
    lookout = in_sight("a", "b")
    assert not clerk.is_content
    now = turns(clerk, lookout)
    log(settings.stores[0].path / "a/train.jsonl", 1, 2)
    now = turns(clerk, lookout, now)
    now = turns(clerk, lookout, now)
    assert asked == [["a/train.jsonl"]]
    log(settings.stores[0].path / "a/train.jsonl", 3)
    log(settings.stores[0].path / "b/train.jsonl", 7)
    now = turns(clerk, lookout, now)
    assert asked[1:] == [["a/train.jsonl", "b/train.jsonl"]]
    assert [row[3] for row in recorded(clerk.results)] == [1, 2, 3, 7]
    again = Clerk(settings, results_of(settings), read)
    turns(again, lookout, now)
    assert len(asked) == 2  # what was read is known after a restart
    assert list(clerk.results.tmp.iterdir()) == []


def test_looks_are_apart_and_a_changed_run_calls_for_one(tmp_path: Path):
    settings = settings_in(tmp_path, CONFIG)
    clerk = Clerk(settings, results_of(settings), read_logs)
    lookout = in_sight("a")
    assert clerk.pause(0.0) == 0.0
    clerk.turn(0.0, lookout)
    assert clerk.is_content
    assert 0 < clerk.pause(1.0) < clerk.pause(0.5) <= 10.0
    clerk.notice([("elsewhere", "a")])
    assert clerk.is_content
    clerk.notice([("runs", "a")])
    assert clerk.pause(1.0) == 0.0


def test_without_logs_there_is_nothing_to_do(tmp_path: Path):
    settings = settings_in(tmp_path)
    clerk = Clerk(settings, results_of(settings), read_logs)
    clerk.notice([("runs", "a")])
    assert clerk.is_content
    assert clerk.pause(0.0) == float("inf")
    assert clerk.turn(0.0, in_sight("a")) is False


def test_the_history_in_the_newest_checkpoint(tmp_path: Path):
    settings = settings_in(tmp_path, CONFIG)
    clerk = Clerk(settings, results_of(settings), read_logs)
    now = 0.0
    for end in (10, 20):
        newest = settings.stores[0].path / f"a/checkpoint-{end}"
        newest.mkdir(parents=True)
        history = [{"step": step, "loss": 1 / step} for step in range(1, end + 1)]
        (newest / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        now = turns(clerk, in_sight("a", newest={"a": newest}), now)
    series = read_series(settings.results, "runs", "a")["loss"]
    assert series.updates.tolist() == list(range(1, 21))
    assert series.values.tolist() == [1 / step for step in range(1, 21)]
    assert series.source == "checkpoint:trainer_state.json"
    assert {row[2] for row in recorded(clerk.results)} == {1}
    assert len(recorded(clerk.results)) == 20


@pytest.mark.parametrize("point", ["before_rename", "after_rename", "fold_written", "fold_renamed", "before_unlink"])
def test_death_at_any_point_loses_nothing_and_repeats_nothing(tmp_path: Path, point: str):
    """The daemon dies at every second passage of a point, while a job logs, and is begun again from update 8."""
    settings = settings_in(tmp_path, CONFIG)
    passages, now = 0, 0.0

    def at(passed: str) -> None:
        nonlocal passages
        passages += passed == point
        if passed == point and passages % 2 == 0:
            raise Killed

    def life() -> Clerk:
        results = results_of(settings, at)
        results.sweep(lambda name: False)
        return Clerk(settings, results, read_logs)

    clerk, path = life(), settings.stores[0].path / "a/train.jsonl"
    for step in range(0, 24, 2):
        if step == 12:
            path.unlink()
            log(path, 8, 9, 10, 11, value=0.25)
        log(path, step, step + 1)
        for _ in range(2):
            try:
                now = turns(clerk, in_sight("a"), now)
                clerk.results.fold(NOW)
                clerk.results.delete_replaced(NOW + timedelta(minutes=1))
            except Killed:
                clerk = life()
    assert passages >= 4
    updates = [*((1, n) for n in range(12)), *((2, n) for n in range(8, 24))]
    assert [(row[2], row[3]) for row in recorded(clerk.results)] == updates
    series = read_series(settings.results, "runs", "a")["loss"]
    values = [n + (0.25 if 8 <= n < 12 else 0.5) for n in range(24)]
    assert (series.updates.tolist(), series.values.tolist()) == (list(range(24)), values)


def test_folding_keeps_the_last_places_alone(tmp_path: Path):
    settings = settings_in(tmp_path, CONFIG)
    clerk, now = Clerk(settings, results_of(settings), read_logs), 0.0
    for step in range(5):
        for run in ("a", "b"):
            log(settings.stores[0].path / run / "train.jsonl", step)
        now = turns(clerk, in_sight("a", "b"), now)
    before = read_places(clerk.results.logs), recorded(clerk.results)
    clerk.results.fold(NOW)
    (name,) = [name for name in clerk.results.logs.files() if is_fold(name)]
    with connect(tmp_path, []) as connection:
        file = str(clerk.results.logs.room / name)
        counted = dict(
            connection.execute("SELECT record, count(*) FROM read_parquet($1) GROUP BY 1", [file]).fetchall()
        )
    assert counted == {"value": 10, "place": 2}
    assert (read_places(clerk.results.logs), recorded(clerk.results)) == before


def test_a_full_disk_leaves_everything_to_be_read(tmp_path: Path):
    settings = settings_in(tmp_path, CONFIG)
    refusals = [OSError(errno.ENOSPC, "No space left on device")]

    def read(wanted: Any, attempts: Any, target: str, seq: int) -> LogsRead:
        if refusals:
            Path(target).write_bytes(b"half")
            return LogsRead((), refusals.pop())
        return read_logs(wanted, attempts, target, seq)

    clerk = Clerk(settings, results_of(settings), read)
    log(settings.stores[0].path / "a/train.jsonl", 1, 2)
    with pytest.raises(OSError, match="No space"):
        clerk.turn(0.0, in_sight("a"))
    assert list(clerk.results.tmp.iterdir()) == []
    assert not clerk.is_content
    assert clerk.pause(0.0) > 0
    turns(clerk, in_sight("a"))
    assert [row[3] for row in recorded(clerk.results)] == [1, 2]


def deadly(name: str) -> Read:
    def read(wanted: Any, *rest: Any) -> LogsRead:
        if any(log.name == name for log, _ in wanted):
            raise SoundingError("the worker was killed by SIGSEGV")
        return read_logs(wanted, *rest)

    return read


def test_a_log_that_kills_its_reader_is_named_and_the_others_are_read(tmp_path: Path):
    settings = settings_in(tmp_path, CONFIG)
    for run in ("a", "b", "c"):
        log(settings.stores[0].path / run / "train.jsonl", 1)
    clerk = Clerk(settings, results_of(settings), deadly("b/train.jsonl"))
    now = turns(clerk, in_sight("a", "b", "c"))
    assert [row[1] for row in recorded(clerk.results)] == ["a", "c"]
    path = settings.stores[0].path / "b/train.jsonl"
    assert clerk.problem == f"{path}: could not be read: the worker was killed by SIGSEGV"
    clerk.read = read_logs
    now = turns(clerk, in_sight("a", "b", "c"), now)
    assert len(recorded(clerk.results)) == 2  # not tried again before it changes
    log(path, 2)
    turns(clerk, in_sight("a", "b", "c"), now)
    assert [row[1] for row in recorded(clerk.results)] == ["a", "b", "b", "c"]
    assert clerk.problem == ""


def test_places_of_another_version_begin_a_new_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = settings_in(tmp_path, CONFIG)
    log(settings.stores[0].path / "a/train.jsonl", 1)
    turns(Clerk(settings, results_of(settings), read_logs), in_sight("a"))
    monkeypatch.setattr("sounding.running.clerk.read_place", lambda text: json.loads("{"))
    turns(Clerk(settings, results_of(settings), read_logs), in_sight("a"))
    assert [row[2:4] for row in recorded(results_of(settings))] == [(1, 1), (2, 1)]
    assert read_series(settings.results, "runs", "a")["loss"].updates.tolist() == [1]
