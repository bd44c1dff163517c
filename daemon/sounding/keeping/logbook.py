"""The narrow table of training logs, in files of its own beside those of the results.

A row is a value that a trainer logged, or the place up to which a log has been read. Both are published in one file,
so what was read and what is known of it can never part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from sounding.keeping.folding import Layout
from sounding.keeping.log_schema import LOG_COLUMNS
from sounding.keeping.shelf import Shelf, fsync, whole_or_nothing

_LAST_PLACE = """QUALIFY record <> 'place' OR seq = max(seq) OVER (PARTITION BY record, store, run, source, file)"""
LOGS = Layout(("record", "store", "run", "source", "key", "attempt", "entry", "seq"), _LAST_PLACE)
_ARROW = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "TIMESTAMP": pa.timestamp("us")}
_SCHEMA = pa.schema([(column.name, _ARROW[column.type]) for column in LOG_COLUMNS])
_NO_PARTITIONING: Any = None  # a directory called "lr=0.1" above the results is no column

Named: TypeAlias = tuple[str, str, str, str]  # store, run, source, file


@dataclass
class LogRows:
    """Values of logs on their way to a file, column by column."""

    named: list[Named] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def add(self, named: Named, attempt: int, updates: int, entry: int, values: Sequence[tuple[str, float]]) -> None:
        """Add an entry's values by key."""
        for key, value in values:
            self.named.append(named)
            self.attempts.append(attempt)
            self.updates.append(updates)
            self.entries.append(entry)
            self.keys.append(key)
            self.values.append(value)


@dataclass(frozen=True, slots=True)
class KeptPlace:
    """The place reached in a file, as text that only its reader understands."""

    named: Named
    attempt: int
    text: str


def write_logs(path: Path, rows: LogRows, places: Sequence[KeptPlace], seq: int, wall: datetime) -> None:
    """Write values and the places they were read up to as one Parquet file, and make sure that it is on the disk.

    The name is not yet published.
    """
    count, known = len(rows), len(places)
    named = [*rows.named, *(place.named for place in places)]
    columns: dict[str, Any] = {
        "record": ["value"] * count + ["place"] * known,
        "seq": [seq] * (count + known),
        "recorded_at": [wall.astimezone(UTC).replace(tzinfo=None)] * (count + known),
        "attempt": [*rows.attempts, *(place.attempt for place in places)],
        "updates": rows.updates + [None] * known,
        "key": rows.keys + [None] * known,
        "value": rows.values + [None] * known,
        "entry": rows.entries + [None] * known,
        "state": [None] * count + [place.text for place in places],
    }
    for number, name in enumerate(("store", "run", "source", "file")):
        columns[name] = [each[number] for each in named]
    table = pa.table({name: columns[name] for name in _SCHEMA.names}, schema=_SCHEMA)
    table = table.sort_by([(name, "ascending") for name in LOGS.sorted_by])
    with whole_or_nothing(path):
        pq.write_table(table, path, compression="zstd", store_schema=False)
        fsync(path)


def read_places(shelf: Shelf) -> tuple[dict[Named, KeptPlace], int]:
    """The last place of every file that was ever read, and the greatest sequence number published."""
    newest: dict[Named, tuple[int, KeptPlace]] = {}
    wanted = [("record", "=", "place")]
    for name in shelf.files():
        table = pq.read_table(shelf.room / name, filters=wanted, partitioning=_NO_PARTITIONING)
        for row in table.to_pylist():
            named = (row["store"], row["run"], row["source"], row["file"])
            if named not in newest or newest[named][0] < row["seq"]:
                newest[named] = row["seq"], KeptPlace(named, row["attempt"], row["state"])
    return {named: place for named, (_, place) in newest.items()}, max((seq for seq, _ in newest.values()), default=0)
