"""How much of every run's training log is recorded: counted file by file, each read once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

import pyarrow.parquet as pq

from sounding.keeping.shelf import Shelf
from sounding.records import LogState

RunName: TypeAlias = tuple[str, str]  # store, run
_Attempt: TypeAlias = tuple[str, int]  # source, number

_NO_PARTITIONING: Any = None  # a directory called "lr=0.1" above the results is no column
_COLUMNS = ["store", "run", "source", "attempt", "updates"]


@dataclass
class Tally:
    """Follows the files of logs as they are published and folded; read cold, it comes to the same."""

    shelf: Shelf
    _files: dict[str, Mapping[RunName, Mapping[_Attempt, tuple[int, int]]]] = field(default_factory=dict)

    def refresh(self) -> set[RunName]:
        """Read what was published since the last call; the runs of which more is known now."""
        names = self.shelf.files()
        new = {name: self._count(name) for name in names if name not in self._files}
        before = {run: self.state(run) for counted in new.values() for run in counted}
        self._files = {name: new.get(name) or self._files.get(name, {}) for name in names}
        return {run for run, state in before.items() if state != self.state(run)}

    def state(self, run: RunName) -> LogState:
        """All rows of the run, those of superseded attempts included; the last update is the newest attempt's."""
        rows, last = 0, dict[str, tuple[int, int]]()  # attempt and update, by source
        for counted in self._files.values():
            for (source, attempt), (count, update) in counted.get(run, {}).items():
                rows += count
                last[source] = max(last.get(source, (0, 0)), (attempt, update))
        if not last:
            return LogState()
        attempts = sorted((source, attempt) for source, (attempt, _) in last.items())
        return LogState(rows, max(update for _, update in last.values()), _digest(attempts))

    def _count(self, name: str) -> dict[RunName, dict[_Attempt, tuple[int, int]]]:
        table = pq.read_table(
            self.shelf.room / name,
            columns=[*_COLUMNS, "record"],
            filters=[("record", "=", "value")],
            partitioning=_NO_PARTITIONING,
        )
        grouped = table.group_by(_COLUMNS[:-1], use_threads=False).aggregate([("updates", "count"), ("updates", "max")])
        counted: dict[RunName, dict[_Attempt, tuple[int, int]]] = {}
        for row in grouped.to_pylist():
            attempts = counted.setdefault((row["store"], row["run"]), {})
            attempts[row["source"], row["attempt"]] = row["updates_count"], row["updates_max"]
        return counted


def _digest(attempts: list[tuple[str, int]]) -> str:
    return blake2b(repr(attempts).encode(), digest_size=8).hexdigest()
