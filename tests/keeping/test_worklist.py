"""What a file tells of the work it holds, in its metadata, against its rows."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sounding.asking.current import may_be_stale, settings_in_force
from sounding.keeping.folding import fold_files
from sounding.keeping.listing import in_memory, table_function
from sounding.keeping.results import write_rows
from sounding.keeping.worklist import (
    MOST,
    WORK,
    Work,
    merge,
    read_worklist,
    runs_of,
    worklist_of_rows,
    worklist_text,
    works_by_file,
    works_in,
)

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def row(seq: int, record: str = "outcome", **given: object) -> dict[str, object]:
    same = {"recorded_at": MOMENT, "plugin": "norm", "version": 1, "options_hash": "h", "store": "runs", "run": "a"}
    work = {"model": "", "basis": "b", "attempt": 1, "status": "ok"} if record == "outcome" else {}
    return {**same, **work, "record": record, "seq": seq, **given}


ROWS = st.lists(
    st.builds(
        lambda seq, record, plugin, version, basis, run, attempt, status, over: row(
            seq, record, plugin=plugin, version=version, basis=basis, run=run, attempt=attempt, status=status, over=over
        ),
        seq=st.integers(0, 9),
        record=st.sampled_from(["outcome", "setting", "reading", "verdict"]),
        plugin=st.sampled_from(["norm", "loss"]),
        version=st.integers(1, 2),
        basis=st.sampled_from(["b", "c"]),
        run=st.sampled_from(["a", "é'\"\\", "half\udc80"]),
        attempt=st.sampled_from([0, 1, 2]),
        status=st.sampled_from(["ok", "skipped", "failed", "redo"]),
        over=st.sampled_from([None, "checkpoint", "run", "group"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_the_metadata_of_a_file_is_what_its_rows_say(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("file") / "x.parquet"
    write_rows(path, rows)
    with in_memory({}) as connection:
        told = works_by_file(connection, [str(path)])[str(path)]
        asked = works_in(connection, table_function([str(path)]))
    assert WORK.encode() in pq.read_metadata(path).metadata
    assert set(told) == set(asked)
    assert len(told) == len(asked) == len(merge(told))
    outcomes = [r for r in rows if r["record"] == "outcome"]
    assert runs_of(told) == {str(r["run"]).replace("\udc80", "\\udc80") for r in outcomes}
    assert any(work.again for work in told) == any(r["attempt"] != 1 or r["status"] == "redo" for r in outcomes)
    assert any(work.whole for work in told) == any(r["over"] in ("run", "group") for r in outcomes)


def test_a_folded_file_tells_what_its_files_told(tmp_path: Path):
    pieces = [[row(1), row(1, "setting")], [row(2, run="b"), row(2, attempt=2)], [row(3, plugin="loss", basis="c")]]
    paths = [tmp_path / f"{number}.parquet" for number in range(len(pieces))]
    for path, rows in zip(paths, pieces, strict=True):
        write_rows(path, rows)
    fold_files(paths, tmp_path / "fold.parquet", [])
    assert WORK.encode() in pq.read_metadata(tmp_path / "fold.parquet").metadata
    with in_memory({}) as connection:
        told = works_by_file(connection, [str(tmp_path / "fold.parquet")])
        asked = works_in(connection, table_function([str(path) for path in paths]))
    assert set(told[str(tmp_path / "fold.parquet")]) == set(asked)
    assert Work("outcome", "norm", 1, "h", "b", 2, again=True, networks=(("runs", "a", ""), ("runs", "b", ""))) in asked


def test_a_file_without_the_metadata_is_asked_itself(tmp_path: Path):
    old, new = tmp_path / "old.parquet", tmp_path / "new.parquet"
    write_rows(old, [row(1, run="b"), row(1, "reading")])
    pq.write_table(pq.read_table(old).replace_schema_metadata({}), old)
    assert pq.read_metadata(old).metadata is None or WORK.encode() not in pq.read_metadata(old).metadata
    write_rows(new, [row(2)])
    with in_memory({}) as connection:
        works = works_by_file(connection, [str(old), str(new)])
    assert {path: runs_of(held) for path, held in works.items()} == {str(old): {"b"}, str(new): {"a"}}


def test_a_list_too_long_for_a_footer_is_left_out(tmp_path: Path):
    many = [row(seq, run=f"run-{seq}") for seq in range(MOST)]
    assert worklist_of_rows(many) is None
    assert worklist_of_rows(many[:-1]) is not None
    write_rows(tmp_path / "x.parquet", many)
    assert WORK.encode() not in pq.read_metadata(tmp_path / "x.parquet").metadata
    with in_memory({}) as connection:
        works = works_by_file(connection, [str(tmp_path / "x.parquet")])
    assert len(runs_of(works[str(tmp_path / "x.parquet")])) == MOST


def test_networks_are_named_once():
    text = worklist_text([_work(), _work(plugin="loss"), _work(basis="c")])
    assert text is not None
    assert json.loads(text)["networks"] == [["runs", "a", ""]]
    assert len(list(read_worklist(text))) == 3


def test_the_last_setting_recorded_is_in_force():
    works = [_work(version=3, seq=9), _work("setting", version=1, seq=1), _work("setting", version=2, seq=4)]
    assert settings_in_force(works) == {"norm": (2, "h")}
    assert settings_in_force(works[:1]) == {"norm": (3, "h")}


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ({}, False),
        ({"basis": "c"}, True),
        ({"basis": "c", "networks": (("runs", "b", ""),)}, False),  # another run may stand on another basis
        ({"again": True}, True),
        ({"again": True, "version": 2}, False),  # not in force: its readings are not shown anyway
    ],
)
def test_outcomes_are_compared_only_where_one_may_outdate_another(changed, stale):
    works = [_work("setting", version=1), _work(), _work(seq=2, **changed)]
    assert may_be_stale(works, settings_in_force(works)) is stale


def _work(record: str = "outcome", **given: object) -> Work:
    networks = (("runs", "a", ""),) if record == "outcome" else ()
    same = {"plugin": "norm", "version": 1, "options_hash": "h", "basis": "b", "seq": 1, "again": False}
    return Work(record, **{**same, "networks": networks, **given})
