"""Publication, folding and deletion: every row kept, whatever the moment at which the process dies."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sounding.asking.query import connect
from sounding.keeping.folding import FAN_IN, LARGEST, LOOSE, choose
from sounding.keeping.listing import is_fold
from sounding.keeping.results import GRACE, ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import Row

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOW + GRACE + timedelta(seconds=60)


class Killed(BaseException):
    """Stands for the death of the process at a named point."""


def rows_of(seq: int) -> list[Row]:
    same: Row = {"seq": seq, "recorded_at": NOW, "store": "lab", "run": f"r{seq % 3}", "step": seq, "plugin": "p"}
    readings = [{"record": "reading", "metric": "m", "part": f"w{part}", "value": seq + part / 7} for part in range(3)]
    curve = {"record": "curve", "metric": "c", "x": [1.0, float("nan")], "y": [0.0, -0.0]}
    return [{**same, **row} for row in (*readings, curve, {"record": "outcome", "status": "ok"})]


def publish(results: ResultsDirectory, seq: int) -> str:
    tmp = results.tmp / tmp_name("e", seq)
    write_rows(tmp, rows_of(seq), results.at)
    return results.publish(tmp, seq)


def filled(path: Path, files: int, start: int = 0) -> ResultsDirectory:
    results = ResultsDirectory(path)
    results.prepare()
    for seq in range(start, start + files):
        publish(results, seq)
    return results


def contents(path: Path) -> list[str]:
    """Every row that a reader sees, exactly; repr tells apart what == does not."""
    with connect(path, []) as connection:
        return sorted(map(repr, connection.execute("FROM recorded").fetchall()))


def test_few_files_are_left_alone(tmp_path: Path):
    results = filled(tmp_path, LOOSE)
    assert results.fold(NOW) is None
    assert len(results.files()) == LOOSE


def test_folding_keeps_every_row_exactly(tmp_path: Path):
    results = filled(tmp_path, LOOSE + 1)
    before = contents(tmp_path)
    assert len(before) == 5 * (LOOSE + 1)
    name = results.fold(NOW)
    assert results.files() == [name]
    assert contents(tmp_path) == before
    assert len(results.delete_replaced(LATER)) == LOOSE + 1
    assert contents(tmp_path) == before
    assert [path.name for path in results.jobs.iterdir()] == [name]
    assert list(results.tmp.iterdir()) == []


def test_replaced_files_stay_for_the_grace(tmp_path: Path):
    results = filled(tmp_path, LOOSE + 1)
    results.fold(NOW)
    assert results.delete_replaced(NOW + GRACE - timedelta(seconds=1)) == []
    assert timedelta(minutes=10) <= GRACE


def test_a_fold_of_folds_names_all_that_is_still_there_and_goes_last(tmp_path: Path):
    results = ResultsDirectory(tmp_path, most_loose=2)
    results.prepare()
    folds = []
    for round_ in range(FAN_IN):
        for seq in range(3):
            publish(results, 3 * round_ + seq)
        folds.append(results.fold(NOW))
        if round_ == 0:
            assert len(results.delete_replaced(LATER)) == 3
    before = contents(tmp_path)
    top = results.fold(NOW)
    assert results.files() == [top]
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT value FROM parquet_kv_metadata($1) WHERE decode(key) = 'sounding.replaces'",
            [str(results.jobs / top)],
        ).fetchall()
    replaced = json.loads(found[0][0])
    assert len([name for name in replaced if not is_fold(name)]) == 3 * (FAN_IN - 1)  # the first three were deleted
    assert [name for name in replaced if is_fold(name)] == sorted(folds)
    deleted = results.delete_replaced(LATER)
    assert deleted[-FAN_IN:] == sorted(folds)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("files", [1, 3, 7, 14])
def test_deletion_broken_off_anywhere_changes_no_answer(tmp_path: Path, files: int):
    results = ResultsDirectory(tmp_path, most_loose=2)
    results.prepare()
    for round_ in range(FAN_IN):
        for seq in range(3):
            publish(results, 3 * round_ + seq)
        results.fold(NOW)
    before = contents(tmp_path)
    assert results.fold(NOW) is not None
    dying = ResultsDirectory(tmp_path, die_at("after_unlink", files))
    with pytest.raises(Killed):
        dying.delete_replaced(LATER)
    assert contents(tmp_path) == before
    assert len(results.delete_replaced(LATER)) == 4 * FAN_IN - files
    assert contents(tmp_path) == before


def die_at(point: str, times: int = 1) -> Callable[[str], None]:
    left = [times]

    def at(reached: str) -> None:
        if reached == point:
            left[0] -= 1
            if left[0] == 0:
                raise Killed(point)

    return at


@pytest.mark.parametrize("point", ["before_fsync", "after_fsync", "before_rename"])
def test_death_before_publication_leaves_nothing_to_see(tmp_path: Path, point: str):
    results = filled(tmp_path, 1)
    before = contents(tmp_path)
    with pytest.raises(Killed):
        publish(ResultsDirectory(tmp_path, die_at(point)), 1)
    assert contents(tmp_path) == before
    assert len(results.sweep(lambda name: False)) == 1
    assert list(results.tmp.iterdir()) == []


def test_death_after_publication_leaves_it_published_once(tmp_path: Path):
    filled(tmp_path, 1)
    with pytest.raises(Killed):
        publish(ResultsDirectory(tmp_path, die_at("after_rename")), 1)
    assert len(contents(tmp_path)) == 10
    assert list((tmp_path / "tmp").iterdir()) == []


def fold_and_delete(results: ResultsDirectory) -> None:
    assert results.fold(NOW) is not None
    results.delete_replaced(LATER)


@pytest.mark.parametrize("point", ["before_fold", "fold_written", "fold_renamed", "before_unlink", "after_unlink"])
def test_death_while_folding_leaves_every_row_once(tmp_path: Path, point: str):
    results = filled(tmp_path, LOOSE + 1)
    before = contents(tmp_path)
    dying = ResultsDirectory(tmp_path, die_at(point))
    with pytest.raises(Killed):
        fold_and_delete(dying)
    assert contents(tmp_path) == before
    results.sweep(lambda name: False)
    results.fold(NOW)
    results.delete_replaced(LATER)
    assert contents(tmp_path) == before
    assert len(list(results.jobs.iterdir())) == 1
    assert list(results.tmp.iterdir()) == []


def test_sweep_spares_what_is_being_written(tmp_path: Path):
    results = filled(tmp_path, 1)
    live, dead = results.tmp / tmp_name("e", 1), results.tmp / tmp_name("f", 2)
    for path in (live, dead):
        path.write_bytes(b"")
    (results.path / "holds" / "dead").mkdir()
    (results.path / "holds" / "dead" / "copy.pt").write_bytes(b"")
    assert results.sweep(lambda name: name == live.name) == [dead.name, "dead"]
    assert [path.name for path in results.tmp.iterdir()] == [live.name]


def test_names_are_never_used_twice(tmp_path: Path):
    results = filled(tmp_path, 0)
    assert len({publish(results, 7) for _ in range(20)}) == 20


def test_files_of_an_older_and_a_newer_schema_are_read_and_folded(tmp_path: Path):
    results = filled(tmp_path, LOOSE)
    old = pa.table({"record": ["reading"], "seq": pa.array([900], pa.int32()), "value": [1.5]})
    new = pa.table({"record": ["reading"], "seq": [901], "value": [2.5], "colour": ["blue"]})
    new = new.replace_schema_metadata({"sounding.schema_version": "99"})
    for seq, table in ((900, old), (901, new)):
        pq.write_table(table, results.tmp / str(seq))
        results.publish(results.tmp / str(seq), seq)
    before = contents(tmp_path)
    name = results.fold(NOW)
    assert contents(tmp_path) == before
    folded = pq.read_table(results.jobs / name)
    assert folded.schema.metadata[b"sounding.schema_version"] == b"99"
    assert folded.filter(pa.compute.equal(folded["seq"], 901))["colour"].to_pylist() == ["blue"]


def test_rows_are_sorted_so_that_statistics_prune(tmp_path: Path):
    results = filled(tmp_path, LOOSE + 1)
    table = pq.read_table(results.jobs / results.fold(NOW))
    keys = list(zip(table["record"].to_pylist(), table["run"].to_pylist(), table["step"].to_pylist(), strict=True))
    readings = [key for key in keys if key[0] == "reading"]
    assert [key[0] for key in keys] == sorted(key[0] for key in keys)
    assert [key[1] for key in readings] == sorted(key[1] for key in readings)


@given(st.lists(st.integers(1, LARGEST * 2), max_size=40), st.integers(0, LOOSE * 2))
def test_choosing_takes_fresh_files_first_and_never_the_largest(folds: list[int], loose: int):
    sizes = {f"{seq:012d}-x.parquet": 1000 for seq in range(loose)}
    sizes |= {f"fold-{seq:012d}-t-x.parquet": size for seq, size in enumerate(folds)}
    chosen = choose(sizes)
    if loose > LOOSE:
        assert chosen == [name for name in sorted(sizes) if not is_fold(name)]
    else:
        assert all(is_fold(name) and sizes[name] < LARGEST for name in chosen)
        assert len(chosen) == 0 or len(chosen) >= FAN_IN


def test_the_number_of_files_stays_small_and_rows_are_rewritten_seldom():
    sizes: dict[str, int] = {}
    written = total = 0
    for seq in range(20_000):  # one job of 10 kB each
        sizes[f"{seq:012d}-x.parquet"] = 10_000
        total += 10_000
        while chosen := choose(sizes):
            size = sum(sizes.pop(name) for name in chosen)
            sizes[f"fold-{seq:012d}-t-{len(chosen)}-{size}.parquet"] = size
            written += size
    assert sum(sizes.values()) == total
    assert len([name for name in sizes if is_fold(name)]) <= 20
    assert written <= 8 * total
