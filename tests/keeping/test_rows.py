"""Every kind of row comes back from the disk as the noun it was."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sounding.keeping.nouns import read_attribute, read_checkpoint, read_outcome
from sounding.keeping.results import ResultsDirectory, write_rows
from sounding.keeping.rows import (
    Row,
    attribute_row,
    outcome_row,
    result_rows,
    setting_row,
    verdict_row,
)
from sounding.records import (
    Attribute,
    Checkpoint,
    Curve,
    Ending,
    Examination,
    Fact,
    FileStamp,
    Finding,
    Job,
    Key,
    MetricSheet,
    OptionSheet,
    Outcome,
    PluginSheet,
    Progress,
    Reading,
    Sighting,
    Skip,
    State,
    Subject,
    Task,
    TaskResult,
    Verdict,
)

AT = datetime(2026, 5, 1, 12, 30, 1, 234567, tzinfo=UTC)
SUBJECT = Subject("pair", "lab", "a", 20, "id-20", "ema", "b", 10, "id-10", None)
KEY = Key("loss", 2, "options", "basis", SUBJECT.identity)
SHEET = PluginSheet(
    "loss", 2, "pair", "first", "data", "", "tests", (MetricSheet("mean", "nat", "", ""),),
    (OptionSheet("top_k", "int", 1, 10),), "options", (), False, "digest",
)  # fmt: skip
STAMP = (FileStamp("model.safetensors", 2**63 - 1, 10, 1_700_000_000_123_456_789), FileStamp("ü'\".json", 1, 0, 0))
PROGRESS = Progress(
    step=Fact(20, "path"), updates=Fact(2**53 + 1, "iter_num"), epoch=Fact(1.5, "epoch"), tokens=Fact(1, "tokens"),
    examples=Fact(2, "examples"), wall_time=Fact(3.25, "time"), lr_stored=Fact(0.0, "optimizer"),
    lr_last=Fact(0.1, "log"),
)  # fmt: skip
CHECKPOINT = Checkpoint("id-20", "lab", "a", 20, "/lab/a/20", "safetensors", "print", STAMP, 3, AT, PROGRESS)


def through_disk(tmp_path: Path, rows: list[Row]) -> list[Row]:
    results = ResultsDirectory(tmp_path / "results")
    results.prepare()
    write_rows(results.tmp / "x", rows)
    name = results.publish(results.tmp / "x", 1)
    return results.read_rows([name], sorted({str(row["record"]) for row in rows}))


def result(*findings: Finding, ending: Ending = Ending.OK) -> TaskResult:
    task = Task(KEY, SUBJECT, {}, attempt=3, excused=2)
    return TaskResult(task, ending, "why", findings, 0.25, "probe", 7, "float32", "cuda:0")


def test_an_outcome_comes_back(tmp_path: Path):
    outcome = Outcome(KEY, SUBJECT, Ending.CRASHED, "signal 11", 2, 41, AT, excused=1)
    (row,) = through_disk(tmp_path, [outcome_row(outcome)])
    assert read_outcome(row) == outcome


def test_the_outcome_of_a_result_comes_back_with_its_cost(tmp_path: Path):
    (row,) = through_disk(tmp_path, result_rows(Job(9, CHECKPOINT, ()), result(), SHEET, AT, 4096))
    assert read_outcome(row) == Outcome(KEY, SUBJECT, Ending.OK, "why", 3, 9, AT, excused=2)
    cost = {"wall_seconds": 0.25, "peak_memory_bytes": 4096, "options": '{"top_k": 10}', "code_digest": "digest"}
    assert cost.items() <= row.items()


def test_a_checkpoint_comes_back_from_its_verdict(tmp_path: Path):
    sighting = Sighting("lab", "a", "/lab/a/20", 20, {}, STAMP)
    verdict = Verdict(State.COMPLETE, "every byte accounted for")
    examined = Examination(verdict, format="safetensors", fingerprint="print", progress=PROGRESS)
    (row,) = through_disk(tmp_path, [verdict_row(sighting, verdict, CHECKPOINT, examined, AT, 5)])
    assert read_checkpoint(row) == CHECKPOINT
    assert (row["status"], row["reason"], row["size_bytes"]) == ("complete", "every byte accounted for", 10)


def test_a_verdict_without_checkpoint_keeps_its_stamp_and_reason(tmp_path: Path):
    sighting = Sighting("lab", "a", "/lab/a/20", None, {}, STAMP)
    (row,) = through_disk(tmp_path, [verdict_row(sighting, Verdict(State.PENDING, "6 of 8"), None, None, AT, 5)])
    assert (row["status"], row["reason"], row["step"], row["checkpoint_id"]) == ("pending", "6 of 8", None, None)


@pytest.mark.parametrize(("value", "kept"), [("12", 12), (12.0, 12), (12.5, None), ("soon", None), (math.nan, None)])
def test_a_count_that_is_no_whole_number_is_left_out(tmp_path: Path, value: float | str, kept: int | None):
    progress = Progress(updates=Fact(value, "iter_num"))
    checkpoint = dataclasses.replace(CHECKPOINT, progress=progress)
    sighting = Sighting("lab", "a", "/lab/a/20", 20, {}, STAMP)
    (row,) = through_disk(tmp_path, [verdict_row(sighting, Verdict(State.COMPLETE, ""), checkpoint, None, AT, 5)])
    assert (row["updates"], row["updates_source"]) == (kept, "iter_num")
    assert read_checkpoint(row).progress.updates == (None if kept is None else Fact(kept, "iter_num"))


def test_attributes_and_settings_come_back(tmp_path: Path):
    found = [Attribute("lr", 0.1, "0.1", "path"), Attribute("name", None, "résumé", "config.yaml")]
    rows = [attribute_row("lab", "a", attribute, 1, AT) for attribute in found]
    read = through_disk(tmp_path, [*rows, setting_row(SHEET, 1, AT)])
    assert sorted((read_attribute(row) for row in read if row["record"] == "attribute"), key=lambda a: a.key) == found
    (setting,) = (row for row in read if row["record"] == "setting")
    assert (setting["plugin"], setting["version"], setting["options_hash"]) == ("loss", 2, "options")


def test_times_are_kept_as_utc(tmp_path: Path):
    there = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    (row,) = through_disk(tmp_path, [setting_row(SHEET, 1, there)])
    assert row["recorded_at"] == AT.replace(tzinfo=None)


def test_a_column_the_table_has_not_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="valeu"):
        write_rows(tmp_path / "x", [{"record": "reading", "valeu": 1.0}])


NUMBERS = st.one_of(st.none(), st.floats())
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
READINGS = st.builds(
    Reading, WORDS, NUMBERS, st.one_of(st.none(), WORDS), WORDS, WORDS, WORDS, st.one_of(st.none(), st.integers(0, 99)),
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), WORDS, NUMBERS, NUMBERS, NUMBERS,
    st.sampled_from(["ok", "unconverged", "unresolved"]),
)  # fmt: skip
POINTS = st.lists(st.floats(), max_size=5).map(tuple)
CURVES = POINTS.flatmap(lambda x: st.builds(Curve, WORDS, st.just(x), st.just(x[::-1]), WORDS))
SKIPS = st.builds(Skip, WORDS, WORDS)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(st.one_of(READINGS, CURVES, SKIPS), max_size=12))
def test_every_finding_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, found: list[Finding]):
    rows = through_disk(tmp_path_factory.mktemp("r"), result_rows(Job(9, CHECKPOINT, ()), result(*found), SHEET, AT, 1))
    back = [finding(row) for row in rows if row["record"] != "outcome"]
    assert sorted(map(repr, back)) == sorted(map(repr, found))  # repr tells -0.0 from 0.0, and takes NaN for equal


def finding(row: Row) -> Finding:
    kind = {"reading": Reading, "curve": Curve, "skip": Skip}[str(row["record"])]
    values = dict(row, quality=row["status"])
    for name in ("x", "y"):
        values[name] = tuple(row[name]) if row[name] is not None else None
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})
