"""The results directory: one immutable Parquet file per finished job, published by a rename, folded when many.

Only `ResultsDirectory.publish` and the folding put a file under `jobs/`; a name there is never used twice, and what
a name holds never changes.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from sounding.keeping.folding import LOOSE, SORTED_BY, choose, fold_files
from sounding.keeping.listing import (
    SCHEMA_VERSION_KEY,
    Fold,
    fold_name,
    in_memory,
    is_fold,
    job_files,
    live_names,
    newest_seq,
    read_folds,
)
from sounding.keeping.schema import COLUMNS, SCHEMA_VERSION
from sounding.keeping.worklist import WORK, worklist_of_rows

# By default a directory called "lr=0.1" above the results would become a column. (The stubs know only names.)
_NO_PARTITIONING: Any = None
_EMPTY: Mapping[str, Any] = {column.name: None for column in COLUMNS}
At: TypeAlias = Callable[[str], None]

GRACE = timedelta(minutes=10)  # how long a query that listed the directory may still read a replaced file
_ARROW = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "DOUBLE[]": pa.list_(pa.float64()),
    "TIMESTAMP": pa.timestamp("us"),
}
SCHEMA = pa.schema([pa.field(column.name, _ARROW[column.type]) for column in COLUMNS])
ALWAYS = frozenset({*SORTED_BY, "recorded_at"})


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], at: At = lambda point: None) -> None:
    """Write the rows as one Parquet file and make sure that it is on the disk; the name is not yet published.

    Columns that no row fills are left out, which halves the footer that every query must read.

    Raises ValueError when a row has a column that the table has not.
    """
    filled = {name for row in rows for name, value in row.items() if value is not None}
    unknown = {name for row in rows for name in row} - set(SCHEMA.names)
    if unknown:
        raise ValueError(f"rows have columns that the results table has not: {sorted(unknown)}")
    fields = [field for field in SCHEMA if field.name in filled or field.name in ALWAYS]
    schema = pa.schema(fields)
    told = {SCHEMA_VERSION_KEY: str(SCHEMA_VERSION)}
    if (worklist := worklist_of_rows(rows)) is not None:
        told[WORK] = worklist
    columns = {name: [_plain(row.get(name)) for row in rows] for name in schema.names}
    table = pa.table(columns, schema=schema).sort_by([(name, "ascending") for name in SORTED_BY])
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(told)  # the schema's own would be left out with the stored schema
    at("before_fsync")
    fsync(path)
    at("after_fsync")


def tmp_name(epoch: str, seq: int) -> str:
    """A name under `tmp/` that says who is writing: host, process and the daemon's epoch, then the job."""
    return f"{socket.gethostname()}-{os.getpid()}-{epoch}-{seq:012d}.parquet"


def fsync(path: Path) -> None:
    """Force a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class ResultsDirectory:
    """A results directory as its one daemon sees it; `at` is told every step that a kill could fall between."""

    path: Path
    at: At = lambda point: None
    grace: timedelta = GRACE
    most_loose: int = LOOSE  # files beyond this many are folded
    epoch: str = "none"  # of the daemon, in names under `tmp/`
    _folds: dict[str, Fold] = field(default_factory=dict, compare=False, repr=False)  # immutable, so read once

    @property
    def jobs(self) -> Path:
        """Where published files lie."""
        return self.path / "jobs"

    @property
    def tmp(self) -> Path:
        """Where files are written before they are published."""
        return self.path / "tmp"

    def prepare(self) -> None:
        """Make the directory and its rooms."""
        for room in ("jobs", "tmp", "holds", "requests", "examples", "cache"):
            (self.path / room).mkdir(parents=True, exist_ok=True)

    def publish(self, tmp: Path, seq: int) -> str:
        """Give a written file its place and its name, which is returned; from then on every reader sees it."""
        name = f"{seq:012d}-{secrets.token_hex(4)}.parquet"
        self.at("before_rename")
        tmp.rename(self.jobs / name)
        fsync(self.jobs)
        self.at("after_rename")
        return name

    def files(self) -> list[str]:
        """Names that count at this moment, sorted; those that a folded file replaces are left out."""
        names, folds = self._list()
        return live_names(names, folds)

    def read_rows(self, names: Sequence[str], records: Sequence[str]) -> list[dict[str, Any]]:
        """All rows of these kinds in these files, in the order of their publication; times are UTC without a zone."""
        rows: list[dict[str, Any]] = []
        for name in names:
            wanted = [("record", "in", list(records))]
            table = pq.read_table(self.jobs / name, filters=wanted, partitioning=_NO_PARTITIONING)
            filled = [field.name for field in SCHEMA if field.name in table.column_names]
            rows += [{**_EMPTY, **row} for row in table.select(filled).to_pylist()]
        return sorted(rows, key=lambda row: int(row["seq"]))

    def sweep(self, is_live: Callable[[str], bool]) -> list[str]:
        """Delete what was left under `tmp/` and `holds/` by processes that are gone; returns what was deleted."""
        swept: list[str] = []
        for room in (self.tmp, self.path / "holds"):
            for entry in sorted(room.iterdir()):
                if not is_live(entry.name):
                    remove(entry)
                    swept.append(entry.name)
        return swept

    def fold(self, now_utc: datetime) -> str | None:
        """Make one file of many where there are too many; the name of the new file, or None when there was no need."""
        start = time.monotonic()
        names, folds = self._list()
        sizes = {name: (self.jobs / name).stat().st_size for name in live_names(names, folds)}
        chosen = choose(sizes, self.most_loose)
        if not chosen:
            return None
        inherited = {name for fold in folds if fold.name in chosen for name in fold.replaces}
        replaces = sorted((inherited & set(names)) | set(chosen))
        seq = max(newest_seq(name) for name in chosen)
        tmp = self.tmp / f"{tmp_name(self.epoch, seq)}.fold"
        self.at("before_fold")
        fold_files([self.jobs / name for name in chosen], tmp, replaces)
        fsync(tmp)
        self.at("fold_written")
        # The grace of what it replaces begins now, not when the folding began; a second more, as names hold seconds.
        name = fold_name(seq, now_utc + timedelta(seconds=time.monotonic() - start + 1))
        tmp.rename(self.jobs / name)
        fsync(self.jobs)
        self.at("fold_renamed")
        return name

    def delete_replaced(self, now_utc: datetime) -> list[str]:
        """Delete files whose replacement has been there for longer than the grace; returns their names, in order.

        Oldest first: a file that a folded file replaces is deleted before that folded file.
        """
        names, folds = self._list()
        due = {name for fold in folds if now_utc - fold.published >= self.grace for name in fold.replaces}
        ordered = sorted(due & set(names), key=lambda name: (is_fold(name), name))
        for name in ordered:
            self.at("before_unlink")
            (self.jobs / name).unlink()
            self.at("after_unlink")
        if ordered:
            fsync(self.jobs)
        return ordered

    def _list(self) -> tuple[list[str], list[Fold]]:
        names = job_files(self.jobs)
        unread = [name for name in names if is_fold(name) and name not in self._folds]
        if unread:
            with in_memory({}) as connection:
                self._folds.update({fold.name: fold for fold in read_folds(connection, self.jobs, unread)})
        return names, [self._folds[name] for name in names if is_fold(name)]


def remove(path: Path) -> None:
    """Delete a file, or a directory with all it holds."""
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            remove(entry)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _plain(value: object) -> object:
    """Times as UTC without a zone, as they are kept; halves of characters, which no file can hold, escaped."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value
