"""The results directory: one immutable Parquet file per finished job, published by a rename, folded when many.

Training logs have a table and a shelf of their own, so that nobody who asks for readings opens them.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sounding.keeping.folding import LOOSE, RESULTS, SORTED_BY
from sounding.keeping.listing import SCHEMA_VERSION_KEY
from sounding.keeping.log_schema import ROOM
from sounding.keeping.logbook import LOGS
from sounding.keeping.schema import COLUMNS, SCHEMA_VERSION
from sounding.keeping.shelf import GRACE, At, Shelf, fsync, tmp_name, whole_or_nothing
from sounding.keeping.worklist import WORK, worklist_of_rows

__all__ = ["ALWAYS", "GRACE", "HOLDS", "SCHEMA", "ResultsDirectory", "remove", "tmp_name", "write_rows"]

HOLDS = "holds"  # the room for copies of checkpoints that may vanish

_AT_ONCE = 2048  # rows
_REPEATED = ("store", "run", "model", "over", "plugin", "options_hash", "basis", "status", "reason", "format",
             *(column.name for column in COLUMNS if column.name.endswith("_source")))  # fmt: skip
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

    Raises OSError when the disk refuses it, and then leaves nothing; ValueError when a row has a column that the table
    has not.
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
    ordered = sorted(rows, key=_place)
    table = pa.table({name: [_plain(row.get(name)) for row in ordered] for name in schema.names}, schema=schema)
    with whole_or_nothing(path):
        with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(told)  # the schema's own would be left out with the stored schema
        at("before_fsync")
        fsync(path)
    at("after_fsync")


@dataclass(frozen=True)
class ResultsDirectory:
    """A results directory as its one daemon sees it; `at` is told every step that a kill could fall between."""

    path: Path
    at: At = lambda point: None
    grace: timedelta = GRACE
    most_loose: int = LOOSE  # files beyond this many are folded
    epoch: str = "none"  # of the daemon, in names under `tmp/`

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
        for room in ("jobs", ROOM, "tmp", HOLDS, "requests", "examples", "cache"):
            (self.path / room).mkdir(parents=True, exist_ok=True)

    @cached_property
    def logs(self) -> Shelf:
        """Where training logs are kept, in a table of their own."""
        return Shelf(self.path / ROOM, self.tmp, LOGS, self.at, self.grace, self.most_loose, self.epoch)

    def publish(self, tmp: Path, seq: int) -> str:
        """Give a written file its place and its name, which is returned; from then on every reader sees it."""
        return self._shelf.publish(tmp, seq)

    def files(self) -> list[str]:
        """Names that count at this moment, sorted; those that a folded file replaces are left out."""
        return self._shelf.files()

    def read_rows(self, names: Sequence[str], records: Sequence[str]) -> list[dict[str, Any]]:
        """All rows of these kinds in these files, in the order of their publication; times are UTC without a zone."""
        return sorted(self.each_row(names, records), key=lambda row: int(row["seq"]))

    def each_row(
        self, names: Sequence[str], records: Collection[str], columns: Sequence[str] = SCHEMA.names
    ) -> Iterator[dict[str, Any]]:
        """The same rows in any order, of which only a few are in memory at once: a folded file holds a million.

        Of the `columns` alone, where they are named; `record` is to be one of them.
        """
        empty = dict.fromkeys(columns)
        for name in names:
            with pq.ParquetFile(self.jobs / name) as file:
                filled = [column for column in columns if column in file.schema_arrow.names]
                repeated = [column for column in _REPEATED if column in filled]
                groups = _groups(file.metadata, records)
                for batch in file.iter_batches(_AT_ONCE, groups, columns=filled, use_threads=False):
                    for row in _rows_of(batch, records):
                        row.update((name, sys.intern(row[name])) for name in repeated if row[name] is not None)
                        yield {**empty, **row}

    def sweep(self, is_live: Callable[[str], bool]) -> list[str]:
        """Delete what was left under `tmp/` and `holds/` by processes that are gone; returns what was deleted."""
        swept: list[str] = []
        for room in (self.tmp, self.path / HOLDS):
            for entry in sorted(room.iterdir()):
                if not is_live(entry.name):
                    remove(entry)
                    swept.append(entry.name)
        return swept

    def fold(self, now_utc: datetime) -> str | None:
        """Make one file of many where there are too many; the name of the new file of jobs, None when there is none."""
        self.logs.fold(now_utc)
        return self._shelf.fold(now_utc)

    def delete_replaced(self, now_utc: datetime) -> list[str]:
        """Delete files whose replacement has been there for longer than the grace; the names of jobs', in order."""
        self.logs.delete_replaced(now_utc)
        return self._shelf.delete_replaced(now_utc)

    @cached_property
    def _shelf(self) -> Shelf:
        return Shelf(self.jobs, self.tmp, RESULTS, self.at, self.grace, self.most_loose, self.epoch)


def _rows_of(batch: pa.RecordBatch, records: Collection[str]) -> Iterator[dict[str, Any]]:
    """Rows of these kinds, which lie together; arrow's own filters take forty megabytes before they begin."""
    start = 0
    for record, rows in groupby(batch.column("record").to_pylist()):
        length = sum(1 for _ in rows)
        if record in records:
            yield from batch.slice(start, length).to_pylist()
        start += length


def _groups(metadata: Any, records: Collection[str]) -> list[int]:
    """The groups of rows that may hold such records; folded files are sorted by record."""
    found: list[int] = []
    for number in range(metadata.num_row_groups):
        columns = (metadata.row_group(number).column(each) for each in range(metadata.num_columns))
        known = next(column.statistics for column in columns if column.path_in_schema == "record")
        if known is None or not known.has_min_max or any(known.min <= record <= known.max for record in records):
            found.append(number)
    return found


def remove(path: Path) -> None:
    """Delete a file, or a directory with all it holds."""
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            remove(entry)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _place(row: Mapping[str, object]) -> tuple[tuple[bool, Any], ...]:
    """Where a row belongs among others: by `SORTED_BY`, what is not there last."""
    values = (_plain(row.get(name)) for name in SORTED_BY)
    return tuple((value is None, "" if value is None else value) for value in values)


def _plain(value: object) -> object:
    """Times as UTC without a zone, as they are kept; halves of characters, which no file can hold, escaped."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value
