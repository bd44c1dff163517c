"""What a full or read-only disk leaves behind: nothing half, and nothing that keeps it full."""

import errno
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from making import START, publish, results_in

from sounding.keeping import shelf
from sounding.keeping.logbook import LogRows, write_logs
from sounding.keeping.results import ResultsDirectory, write_rows
from sounding.keeping.rows import attribute_row
from sounding.records import Attribute

ROW = attribute_row("runs", "a", Attribute("lr", 0.1, "0.1", "path"), 1, START)


def no_space(path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def half_then_full(self: pq.ParquetWriter, table: object, **options: object) -> None:
    self.file_handle.write(b"PAR1 and no more") if self.file_handle else None
    no_space(Path("written"))


@pytest.fixture
def results(tmp_path: Path) -> ResultsDirectory:
    made = results_in(tmp_path / "results")
    return ResultsDirectory(made.path, most_loose=2, grace=timedelta(0))


@pytest.mark.parametrize(
    "write", [lambda path: write_rows(path, [ROW]), lambda path: write_logs(path, LogRows(), (), 1, START)]
)
@pytest.mark.parametrize("point", ["write", "fsync"])
def test_a_file_that_cannot_be_written_leaves_nothing(
    results: ResultsDirectory, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], point: str
):
    if point == "write":
        monkeypatch.setattr(pq.ParquetWriter, "write_table", half_then_full)
    else:
        monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write(results.tmp / "one.parquet")
    assert list(results.tmp.iterdir()) == []


def test_what_cannot_be_published_stays_where_it_was_written(
    results: ResultsDirectory, monkeypatch: pytest.MonkeyPatch
):
    path = results.tmp / "one.parquet"
    write_rows(path, [ROW])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: no_space(target))
        with pytest.raises(OSError, match="No space left"):
            results.publish(path, 1)
    assert (results.files(), list(results.tmp.iterdir())) == ([], [path])
    results.publish(path, 1)
    assert len(results.files()) == 1


def test_a_directory_that_cannot_be_synced_does_not_undo_what_readers_see(
    results: ResultsDirectory, monkeypatch: pytest.MonkeyPatch
):
    path = results.tmp / "one.parquet"
    write_rows(path, [ROW])
    monkeypatch.setattr(shelf, "fsync", no_space)
    assert results.publish(path, 1) in results.files()


@pytest.mark.parametrize("point", ["copy", "fsync", "rename"])
def test_folding_on_a_full_disk_changes_nothing_and_is_done_later(
    results: ResultsDirectory, monkeypatch: pytest.MonkeyPatch, point: str
):
    for seq in range(1, 5):
        publish(results, [ROW], seq)
    before = results.files()

    def full(paths: object, target: Path, *rest: object) -> None:
        target.write_bytes(b"half of it")
        target.with_name(f"{target.name}.spill").mkdir()
        raise duckdb.IOException('IO Error: Could not write file "x": No space left on device')

    with monkeypatch.context() as patch:
        if point == "copy":
            patch.setattr(shelf, "fold_files", full)
        elif point == "fsync":
            patch.setattr(shelf, "fsync", no_space)
        else:
            patch.setattr(Path, "rename", lambda self, target: no_space(target))
        with pytest.raises(OSError, match="No space left"):
            results.fold(START)
    assert (results.files(), list(results.tmp.iterdir())) == (before, [])
    assert results.fold(START) in results.files()
    assert [row["seq"] for row in results.read_rows(results.files(), ("attribute",))] == [1, 2, 3, 4]
