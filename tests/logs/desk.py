"""Reads logs as the daemon does, without a daemon and nearly without a disk; places pass through their text."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from making import results_in

from sounding.keeping.logbook import KeptPlace, LogRows, write_logs
from sounding.keeping.series import read_series
from sounding.logs.place import Place, read_place
from sounding.logs.reading import AT_ONCE, LogFile, Reached, Stream, read_logs

Row = tuple[int, int, int, str, float]  # attempt, updates, entry, key, value
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Desk:
    """Logs of one setting of run `a`, read again and again."""

    def __init__(self, path: Path, *names: str, at_once: int = AT_ONCE, updates: str = "") -> None:
        self.path = path
        self.store = path / "store"
        self.store.mkdir()
        self.logs = [LogFile("runs", "a", "setting", name, str(self.store / name), updates) for name in names]
        self.at_once = at_once
        self.kept: dict[str, KeptPlace] = {}
        self.taken = LogRows()

    def read(self, most: int = 1000) -> Sequence[Reached]:
        """Read until there is nothing more, from the places that were published."""
        places = {name: read_place(kept.text) for name, kept in self.kept.items()}
        for _ in range(most):
            greatest = max((kept.attempt for kept in self.kept.values()), default=0)
            attempts: dict[Stream, int] = {self.logs[0].stream: greatest} if greatest else {}
            wanted = [(log, places.get(log.name, Place())) for log in self.logs]
            with mock.patch("sounding.logs.reading.write_logs", self._publish):
                reached = read_logs(wanted, attempts, "", 1, self.at_once).reached
            places |= {each.log.name: each.place for each in reached}
            if len(reached) == len(self.logs) and all(each.finished for each in reached):
                return reached
        raise AssertionError(f"reading does not come to an end: {reached}")

    @property
    def problems(self) -> list[str]:
        """What is wrong, as of one more reading."""
        return [each.problem for each in self.read() if each.problem]

    def rows(self) -> list[Row]:
        """Every value taken, in the order of the log."""
        taken = self.taken
        columns = zip(taken.attempts, taken.updates, taken.entries, taken.keys, taken.values, strict=True)
        return sorted(columns, key=lambda row: (row[0], row[2], row[3]))

    def series(self, key: str) -> list[tuple[float, float]]:
        """What the run went through in the end, as readers of the results see it."""
        results = results_in(self.path / "results")
        target = results.tmp / "x"
        write_logs(target, self.taken, list(self.kept.values()), 1, NOW)
        target.replace(results.logs.room / "000000000001-0.parquet")
        one = read_series(results.path, "runs", "a")[key]
        return list(zip(one.updates.tolist(), one.values.tolist(), strict=True))

    def _publish(self, path: Path, rows: LogRows, places: Sequence[KeptPlace], seq: int, wall: datetime) -> None:
        for name, column in vars(rows).items():
            getattr(self.taken, name).extend(column)
        self.kept |= {place.named[3]: place for place in places}
