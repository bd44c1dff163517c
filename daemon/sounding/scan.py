"""Listing a store: which paths look like checkpoints, and what `stat` says of them.

Bounded by the depth of the patterns and cheap when little changes: directories are stat-ed each time, listed only
when their modification time moved, and settled checkpoints are looked at again only by a full scan. Events, where
there are any, merely name directories to list again.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sounding.config import Store
from sounding.records import Sighting, Stamp
from sounding.stamps import stamp_of

_UNSETTLED_SECONDS = 1.0  # a directory is listed again this long after a change: its clock may be that coarse


@dataclass(frozen=True, slots=True)
class Listing:
    """The entries of a directory that some pattern may accept, as of one modification time."""

    mtime_ns: int
    changed_at: float  # monotonic time at which the change was noticed
    listed_at: float  # monotonic
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look at a store saw; with a `problem`, the sightings are those of the last good look."""

    sightings: Mapping[str, Sighting]  # by absolute path
    problem: str = ""


@dataclass
class Scanner:
    """Looks at one store again and again, remembering only what saves it work."""

    store: Store
    _listings: dict[str, Listing] = field(default_factory=dict)
    _seen: dict[str, Sighting] = field(default_factory=dict)

    def scan(self, now: float, *, full: bool, touched: frozenset[str], unsettled: Callable[[str], bool]) -> Scan:
        """Look once.

        `now` is monotonic; `touched` holds directories that events named; `unsettled(path)` tells whether a
        checkpoint known from before may still change and is to be stat-ed again.
        """
        if full:
            self._listings.clear()
        try:
            found = dict(self._find(now, touched))
        except OSError as error:
            return Scan(self._seen, f"{self.store.path} cannot be listed: {error.strerror or error}")
        seen: dict[str, Sighting] = {}
        for path, sighting in found.items():
            known = self._seen.get(path)
            if known is not None and not full and not unsettled(path) and str(Path(path).parent) not in touched:
                seen[path] = known
                continue
            stamp = _stamp(path)
            if stamp:
                seen[path] = _with_stamp(sighting, stamp)
        self._seen = seen
        return Scan(seen)

    def directories(self) -> frozenset[str]:
        """Every directory that the last scan looked into."""
        return frozenset(self._listings)

    def _find(self, now: float, touched: frozenset[str]) -> Iterator[tuple[str, Sighting]]:
        alive: set[str] = set()
        level = [""]
        for depth in range(max(len(pattern.components) for pattern in self.store.patterns)):
            below: list[str] = []
            for relative in level:
                for name in self._list(relative, depth, now, touched, alive):
                    path = f"{relative}/{name}" if relative else name
                    sighting = self._match(path)
                    if sighting is not None:
                        yield sighting.path, sighting
                    else:
                        below.append(path)
            level = below
        for gone in self._listings.keys() - alive:
            del self._listings[gone]

    def _list(self, relative: str, depth: int, now: float, touched: frozenset[str], alive: set[str]) -> tuple[str, ...]:
        directory = self.store.path / relative
        key = str(directory)
        try:
            mtime_ns = directory.stat().st_mtime_ns
            known = self._listings.get(key)
            moved = known is None or known.mtime_ns != mtime_ns or key in touched
            if known is not None and not moved and known.listed_at - known.changed_at > _UNSETTLED_SECONDS:
                alive.add(key)
                return known.names
            names = self._entries(directory, depth)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            if not relative:
                raise
            return ()
        changed_at = now if moved or known is None else known.changed_at
        self._listings[key] = Listing(mtime_ns, changed_at, now, names)
        alive.add(key)
        return names

    def _entries(self, directory: Path, depth: int) -> tuple[str, ...]:
        ends = [p.components[depth] for p in self.store.patterns if len(p.components) == depth + 1]
        passages = [p.components[depth] for p in self.store.patterns if len(p.components) > depth + 1]
        with os.scandir(directory) as entries:
            names = [
                entry.name
                for entry in entries
                if any(expression.fullmatch(entry.name) for expression in ends)
                or (any(expression.fullmatch(entry.name) for expression in passages) and entry.is_dir())
            ]
        return tuple(sorted(names))

    def _match(self, relative: str) -> Sighting | None:
        for pattern in self.store.patterns:
            match = pattern.match(relative)
            if match is not None:
                path = str(self.store.path / relative)
                return Sighting(self.store.name, match.run, path, match.step, match.parts, ())
        return None


def _stamp(path: str) -> Stamp:
    """The stamp of a path that was just listed; empty when it has gone in between."""
    try:
        return stamp_of(Path(path))
    except OSError:
        return ()


def _with_stamp(sighting: Sighting, stamp: Stamp) -> Sighting:
    return Sighting(sighting.store, sighting.run, sighting.path, sighting.step, sighting.parts, stamp)
