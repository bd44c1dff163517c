"""Reading logs on from their places. Runs in a killable child, which writes what it found to one temporary file."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeAlias

from sounding.formats.proof import ImpossibleError, opened
from sounding.keeping.logbook import KeptPlace, LogRows, Named, write_logs
from sounding.log_setting import Kind, kind_of
from sounding.logs.documents import read_history
from sounding.logs.entries import STEPS, Entry, LogError
from sounding.logs.events import read_events
from sounding.logs.lines import Read, Spot, read_csv, read_jsonl
from sounding.logs.place import UNREAD, Place, Stat, place_text

AT_ONCE = 50_000  # values of one call, so that its time and memory are bounded
_TAIL = 256  # bytes

Reader: TypeAlias = Callable[[BinaryIO, Spot, Sequence[str]], Iterator[Read]]
Stream: TypeAlias = tuple[str, str, str]  # store, run, source: attempts are counted in each

_READERS: Mapping[Kind, Reader] = {
    "csv": read_csv, "jsonl": read_jsonl, "history": read_history, "events": read_events,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log of a run: where it is now, and the name it is known by, which a moving log keeps."""

    store: str
    run: str
    source: str  # the setting that named it
    name: str
    path: str
    updates: str = ""  # the key that tells the update, where the setting names one

    @property
    def named(self) -> Named:
        """What tells it from all other logs."""
        return self.store, self.run, self.source, self.name

    @property
    def stream(self) -> Stream:
        """What its attempts are counted in."""
        return self.store, self.run, self.source


@dataclass(frozen=True, slots=True)
class Reached:
    """How far one file was read."""

    log: LogFile
    place: Place
    taken: int = 0  # values
    problem: str = ""
    finished: bool = True  # nothing whole was left to read


@dataclass(frozen=True, slots=True)
class LogsRead:
    """What one call came to: the files looked into, in order; none where the results could not be written."""

    reached: tuple[Reached, ...]
    refused: OSError | None = None


@dataclass
class _Found:
    """What a call has found so far."""

    attempts: dict[Stream, int]
    left: int
    rows: LogRows = field(default_factory=LogRows)

    def meet(self, log: LogFile, before: Place, entry: Entry, spot: Spot) -> Place | None:
        """Take an entry if it is new; the place after it, or None where the log says otherwise than it did."""
        after = before.meet(entry, spot)
        if after is None or after.taken == before.taken:
            self.left -= 1 if spot.offset else 0  # what cannot be read on from here is met as a whole
            return after
        if before.fresh or before.goes_back(entry):
            self.attempts[log.stream] = attempt = self.attempts.get(log.stream, 0) + 1
            after = replace(after, attempt=attempt)
        self.rows.add(log.named, after.attempt, entry.updates, after.met - 1, entry.values)
        self.left -= len(entry.values)
        return after


def read_logs(
    wanted: Sequence[tuple[LogFile, Place]],
    attempts: Mapping[Stream, int],
    target: str,
    seq: int,
    at_once: int = AT_ONCE,
) -> LogsRead:
    """Read each log on from its place, until all are read or `at_once` values were met.

    `attempts` are the greatest numbers given so far. Values and places are written to `target`; no file is written
    where no value was found.
    """
    found = _Found(dict(attempts), at_once)
    reached: list[Reached] = []
    for log, place in wanted:
        if found.left <= 0:
            break
        reached.append(_read_on(log, place, found))
    if len(found.rows):
        places = [KeptPlace(r.log.named, r.place.attempt, place_text(r.place)) for r in reached if r.taken]
        try:
            write_logs(Path(target), found.rows, places, seq, datetime.now(UTC))
        except OSError as error:
            return LogsRead((), error)
    return LogsRead(tuple(reached))


def preview(log: LogFile, at_once: int = AT_ONCE) -> tuple[tuple[str, ...], str]:
    """The keys at the beginning of a log, and what is wrong with it."""
    found = _Found({}, at_once)
    reached = _read_on(log, Place(), found)
    return tuple(sorted(set(found.rows.keys))), reached.problem


def _read_on(log: LogFile, place: Place, found: _Found) -> Reached:
    before, problem, finished = len(found.rows), "", True
    try:
        with opened(Path(log.path)) as file:
            stat = _stat(file)
            offset = place.spot.offset
            if not offset or stat[0] != place.stat[0] or _tail(file, offset) != place.tail:
                place = place.again()
            place, problem, finished = _pass(log, file, place, found)
            place = replace(place, stat=stat if finished else (stat[0], *UNREAD), tail=_tail(file, place.spot.offset))
    except FileNotFoundError:
        pass  # rotated away since it was listed; the next look finds what follows it
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    except ImpossibleError as error:
        problem = str(error)
    return Reached(log, place, len(found.rows) - before, problem and f"{log.path}: {problem}", finished)


def _pass(log: LogFile, file: BinaryIO, place: Place, found: _Found) -> tuple[Place, str, bool]:
    """Read on from a place: the new place, what is wrong, and whether the end was reached.

    Whatever happens, the place is that up to which values were taken: neither is ever known without the other.
    """
    problem = ""
    try:
        for spot, read in _reads(log, file, place.spot):
            if found.left <= 0:
                return place, problem, False
            if isinstance(read, Entry):
                after = found.meet(log, place, read, spot)
                if after is None:
                    return place.parted(), problem, False
            else:
                after, problem = replace(place, spot=spot), problem or read or ""
            place = after
    except LogError as error:
        problem = str(error)
    return place, problem, True


def _reads(log: LogFile, file: BinaryIO, spot: Spot) -> Iterator[Read]:
    kind = kind_of(log.name)
    if kind is None:
        raise LogError("its name tells no kind of log")
    try:
        yield from _READERS[kind](file, spot, (log.updates,) if log.updates else STEPS)
    except OSError as error:
        raise LogError(f"cannot be read on: {error.strerror or error}") from error


def _stat(file: BinaryIO) -> Stat:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def _tail(file: BinaryIO, offset: int) -> str:
    """A digest of the last bytes before an offset; empty, which no bytes have, where they cannot be read."""
    start = max(0, offset - _TAIL)
    try:
        file.seek(start)
        read = file.read(offset - start)
    except OSError:
        return ""  # the next reading verifies everything
    return hashlib.blake2b(read, digest_size=6).hexdigest() if len(read) == offset - start else ""
