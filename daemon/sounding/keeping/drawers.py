"""Drawers: something known of each run, of which only that of the runs asked for last lies open.

Of a hundred thousand checkpoints nearly all are at rest, and nobody asks for them from one hour to the next. As
objects they take kilobytes each, and time in every collection of garbage; packed they take a hundred bytes.
"""

import io
import pickle
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any, Generic, TypeAlias, TypeVar

RunName: TypeAlias = tuple[str, str]  # store, run

T = TypeVar("T")

MOST_OPEN = 64  # runs, beside those that are held open


class Drawers(Generic[T]):
    """A drawer for every run; `empty` makes what is in one that nothing was ever put into.

    What `read` and `open` return is as it was at that moment once another run's drawer has been opened.
    """

    def __init__(self, empty: Callable[[], T]) -> None:
        self._empty = empty
        self._packed: dict[RunName, bytes] = {}  # also of those that were only read since
        self._open: dict[RunName, T] = {}  # those asked for last at the end
        self._held: dict[RunName, T] = {}

    def __iter__(self) -> Iterator[RunName]:
        """The runs of which something is known."""
        nothing = self._empty()
        at_hand = {**self._open, **self._held}
        yield from [*self._packed.keys() - at_hand.keys(), *(run for run in at_hand if at_hand[run] != nothing)]

    def read(self, run: RunName) -> T:
        """What is known of a run, not to be changed."""
        if run in self._held:
            return self._held[run]
        found = self._open.pop(run, None)
        if found is None:
            found = _unpacked(self._packed[run]) if run in self._packed else self._empty()
        self._open[run] = found
        while len(self._open) > MOST_OPEN:
            self._put_away(next(iter(self._open)))
        return found

    def open(self, run: RunName) -> T:
        """What is known of a run, to be changed at once, before another run's drawer is opened."""
        found = self.read(run)
        self._packed.pop(run, None)
        return found

    def hold(self, run: RunName) -> T:
        """What is known of a run, which may be changed until it is let go."""
        if run not in self._held:
            self._held[run] = self.open(run)
            del self._open[run]
        return self._held[run]

    def let_go(self, run: RunName) -> None:
        """Hold a run open no longer."""
        if run in self._held:
            self._open[run] = self._held.pop(run)
            self.read(run)

    def _put_away(self, run: RunName) -> None:
        known = self._open.pop(run)
        if run not in self._packed and known != self._empty():
            self._packed[run] = _packed(known)


class _Reducers(dict[type, Callable[[Any], Any]]):
    """Records are made again by their constructors, which takes half the time of what dataclasses have of their own."""

    def __missing__(self, kind: type) -> Callable[[Any], Any]:
        names = [field.name for field in fields(kind)] if is_dataclass(kind) else []
        if len(names) > 1:  # of one name, the getter would return the bare value
            values = attrgetter(*names)
            self[kind] = lambda record: (kind, values(record))
        elif issubclass(kind, type):
            raise KeyError(kind)  # classes go by their names
        else:
            self[kind] = lambda value: value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return self[kind]


_REDUCERS = _Reducers()


def _packed(known: object) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(known)
    return zlib.compress(file.getbuffer(), 1)


def _unpacked(packed: bytes) -> Any:
    return pickle.loads(zlib.decompress(packed))  # noqa: TID251 - what this process packed, and never a file
