"""The clerk copies training logs into the results: finds what was written since, has it read, publishes it.

What was read is known from the results: the place reached in a log is in the same file as the values read up to there.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sounding.config import Settings
from sounding.errors import SoundingError
from sounding.keeping.ledger import RunName
from sounding.keeping.logbook import KeptPlace, Named, read_places
from sounding.keeping.results import ResultsDirectory, tmp_name
from sounding.logs.finding import Finder, Found
from sounding.logs.place import Place, Stat, read_place
from sounding.logs.reading import LogFile, LogsRead, Reached, Stream
from sounding.running.dispatch import Child, Limits, call_and_wait
from sounding.seeing.lookout import Lookout

READ = Limits(deadline_seconds=60.0, memory_bytes=2 << 30)
_SECONDS = 5.0  # between two looks at the logs
_REST = 20.0  # rest after a look, as a multiple of what the look took
_AT_ONCE = 500  # files of one call

Wanted: TypeAlias = Sequence[tuple[LogFile, Place]]
Read: TypeAlias = Callable[[Wanted, Mapping[Stream, int], str, int], LogsRead]


def in_child(child: Child) -> Read:
    """Reading in a child that can be killed: the logs are foreign bytes."""

    def read(*arguments: Any) -> LogsRead:
        found: LogsRead = call_and_wait(child, "sounding.logs.reading:read_logs", arguments, READ)
        return found

    return read


@dataclass
class Clerk:
    """Everything the daemon needs to keep the logs of its stores."""

    settings: Settings
    results: ResultsDirectory
    read: Read
    epoch: str = "none"
    problems: dict[Named, str] = field(default_factory=dict)  # logs that cannot be read (on), and why
    _places: dict[Named, Place] = field(default_factory=dict)
    _attempts: dict[Stream, int] = field(default_factory=dict)  # the greatest number given
    _seq: int = 0
    _finders: dict[str, Finder] = field(default_factory=dict)  # by store
    _tried: dict[Named, Stat] = field(default_factory=dict)  # as of which a file had nothing more to give
    _waiting: list[Found] = field(default_factory=list)
    _alone: bool = False  # a call died: its files are read one by one
    _stale: bool = True  # a run has come or changed since the last look
    _next_look: float = 0.0
    _refused_until: float = 0.0

    def __post_init__(self) -> None:
        stores = [store for store in self.settings.stores if store.logs]
        self._finders = {store.name: Finder(store) for store in stores}
        if not stores:
            self._stale = False
            return
        kept, self._seq = read_places(self.results.logs)
        for named, place in kept.items():
            self._places[named] = _recalled(place)
            stream = named[:3]
            self._attempts[stream] = max(place.attempt, self._attempts.get(stream, 0))

    @property
    def is_content(self) -> bool:
        """Whether all that was there at the last look has been read, and nothing calls for another."""
        return not (self._waiting or self._stale)

    @property
    def problem(self) -> str:
        """What a person should know of logs that cannot be read; empty when there is nothing."""
        rest = f" (and {len(self.problems) - 1} more like it)" if len(self.problems) > 1 else ""
        return f"{next(iter(self.problems.values()))}{rest}" if self.problems else ""

    def notice(self, runs: Iterable[RunName]) -> None:
        """Checkpoints of these runs came, changed or went: their logs are likely to have grown."""
        self._stale = self._stale or any(store in self._finders for store, _ in runs)

    def pause(self, now: float) -> float:
        """Seconds until a turn is due."""
        if not self._finders:
            return float("inf")
        due = self._next_look if self.is_content else 0.0
        return max(0.0, max(due, self._refused_until) - now)

    def turn(self, now: float, lookout: Lookout) -> bool:
        """Read some of what the runs in sight logged, if anything is due; whether values were published.

        Raises OSError when the results cannot be written: then everything is still to be read.
        """
        if self.pause(now) > 0:
            return False
        if not self._waiting:
            self._look(now, lookout)
        try:
            return self._read_some() if self._waiting else False
        except OSError:
            self._refused_until = now + _SECONDS
            raise

    def _look(self, now: float, lookout: Lookout) -> None:
        start = time.monotonic()
        newest = self._newest(lookout)
        self._waiting = [
            found
            for store, run in lookout.runs()
            if store in self._finders and (store, run) not in lookout.hidden
            for found in self._finders[store].find(run, newest.get((store, run)), now)
            if found.stat not in (self._place(found).stat, self._tried.get(found.log.named))
        ]
        self._alone = self._stale = False
        self._next_look = now + max(_SECONDS, _REST * (time.monotonic() - start))

    def _newest(self, lookout: Lookout) -> Mapping[RunName, str]:
        inside = {name for name, finder in self._finders.items() if any(log.inside for log in finder.store.logs)}
        return lookout.last_complete() if inside else {}

    def _read_some(self) -> bool:
        batch = self._waiting[: 1 if self._alone else _AT_ONCE]
        target = self.results.tmp / tmp_name(f"{self.epoch}-logs", self._seq + 1)
        try:
            read = self.read(
                [(found.log, self._place(found)) for found in batch], self._attempts, str(target), self._seq + 1
            )
        except SoundingError as error:
            target.unlink(missing_ok=True)
            self._died(batch, error)
            return False
        if read.refused is not None:
            target.unlink(missing_ok=True)
            raise read.refused
        published = any(reached.taken for reached in read.reached)
        if published:
            self.results.logs.publish(target, self._seq + 1)
            self._seq += 1
        for found, reached in zip(batch, read.reached, strict=False):
            self._take(found, reached)
        self._waiting = [*self._unfinished(batch, read.reached), *self._waiting[len(batch) :]]
        return published

    def _take(self, found: Found, reached: Reached) -> None:
        log, place = reached.log, reached.place
        self._places[log.named] = place
        if reached.taken:
            self._attempts[log.stream] = max(place.attempt, self._attempts.get(log.stream, 0))
        if reached.finished:
            self._tried[log.named] = found.stat
        if reached.problem:
            self.problems[log.named] = reached.problem
        else:
            self.problems.pop(log.named, None)

    def _unfinished(self, batch: Sequence[Found], reached: Sequence[Reached]) -> Iterator[Found]:
        """Files with more to read, and those that were not come to."""
        yield from (found for found, to in zip(batch, reached, strict=False) if not to.finished)
        yield from batch[len(reached) :]

    def _died(self, batch: Sequence[Found], error: SoundingError) -> None:
        """A child died over some file: the one to blame is found by reading each alone."""
        if len(batch) > 1:
            self._alone = True
            return
        (found,) = batch
        self.problems[found.log.named] = f"{found.log.path}: could not be read: {error}"
        self._tried[found.log.named] = found.stat
        self._waiting.remove(found)

    def _place(self, found: Found) -> Place:
        return self._places.get(found.log.named, Place())


def _recalled(kept: KeptPlace) -> Place:
    """The place as it was kept; where another version kept it otherwise, the file is read as one begun again."""
    try:
        return read_place(kept.text)
    except (ValueError, KeyError, TypeError):
        return Place()
