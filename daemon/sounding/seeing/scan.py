"""Scanning a store: which paths look like checkpoints, and what `stat` says of them.

Bounded by the depth of the patterns and cheap when little changes: directories are stat-ed each time, listed only
when their modification time moved, and settled checkpoints are looked at again only by a full scan. Events, where
there are any, merely name directories to list again. No directory is listed twice in one look.

What cannot be looked at stays as it was last seen: only a listing that succeeds takes a checkpoint away.
"""

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from sounding.config import Store
from sounding.records import Sighting, Stamp
from sounding.seeing.directory import Listing, Reader, Way
from sounding.stamps import stamp_of

# A directory is listed again this long after a change: the clock of its file system may be that coarse, and a look
# itself takes time.
_UNSETTLED_SECONDS = 2.0
# How long a directory may be empty, or another one, before what was in it is believed to be gone: it may be a mount
# point whose file system is about to come back.
_DOUBT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look at a store saw, and what it could not see."""

    seen: Mapping[str, Sighting]  # by absolute path: what is new, or has another stamp than at the last look
    gone: Mapping[str, Sighting]  # what is there no more, without its stamp
    problem: str = ""
    hidden: frozenset[str] = frozenset()  # runs some of which could not be looked at, and is as it was last seen


@dataclass(frozen=True, slots=True)
class _Look:
    """One look under way."""

    now: float
    full: bool
    touched: Set[str]
    listings: dict[str, Listing] = field(default_factory=dict)  # by absolute path of the directory
    fresh: list[str] = field(default_factory=list)  # directories listed in this look
    kept: dict[str, Listing] = field(default_factory=dict)  # directories that could not be listed, as they were
    visited: set[tuple[int, int]] = field(default_factory=set)  # device and inode of directories
    stamps: dict[tuple[int, int], Stamp] = field(default_factory=dict)  # of checkpoint directories
    problems: list[str] = field(default_factory=list)


class Scanner:
    """Looks at one store again and again, remembering only what saves it work."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._reader = Reader(store)
        self._listings: dict[str, Listing] = {}
        self._stamps: dict[str, dict[str, bytes]] = {}  # digests, by directory and name: all a change is told by
        self._unread: set[str] = set()  # found, but `stat` failed
        self._doubted: dict[str, float] = {}  # directories suddenly without what they held, and since when

    def scan(self, now: float, *, full: bool, touched: Set[str], unsettled: Set[str]) -> Scan:
        """Look once.

        `now` is monotonic; `touched` holds directories that events named; `unsettled` the paths of checkpoints that
        may still change and are to be stat-ed again.
        """
        look = _Look(now, full, touched)
        self._walk(look)
        gone, wanted = self._compare(look, unsettled)
        seen: dict[str, Sighting] = {}
        for directory, names in wanted.items():
            for name in names:
                self._restamp(look.listings[directory].way, name, look, seen, gone)
        self._listings = look.listings
        hidden = (self._reader.sighting(kept.way, name).run for kept in look.kept.values() for name in kept.found)
        return Scan(seen, gone, _summary(look.problems), frozenset(hidden))

    def _walk(self, look: _Look) -> None:
        """Visit every directory on the way to checkpoints; by their own ways first, by links what is left."""
        ways, links = deque([Way(str(self.store.path), "", 0)]), deque[Way]()
        while ways or links:
            for below in self._visit(ways.popleft() if ways else links.popleft(), look):
                (links if below.by_link else ways).append(below)

    def _visit(self, way: Way, look: _Look) -> tuple[Way, ...]:
        """List the directory, unless it was visited by another way; the ways on from it."""
        try:
            listing = self._listing(way, look)
        except (FileNotFoundError, NotADirectoryError) as error:
            if way.depth == 0:
                self._keep(way.path, look, f"cannot be listed: {error.strerror or error}")
            return ()
        except OSError as error:
            self._keep(way.path, look, f"cannot be listed: {error.strerror or error}")
            return ()
        if listing is None:
            return ()
        if self._is_doubtful(way, listing, look.now):
            minutes = _DOUBT_SECONDS / 60
            what = (
                f"no longer holds what it held, as if it were not mounted; that is believed after {minutes:g} minutes"
            )
            self._keep(way.path, look, what)
            return ()
        look.listings[way.path] = listing
        if listing.problem:
            look.problems.append(listing.problem)
        return listing.below

    def _keep(self, directory: str, look: _Look, problem: str = "") -> None:
        """Leave a directory, and what lies below it, as it was last seen."""
        if problem:
            look.problems.append(f"{directory} {problem}")
        before = self._listings.get(directory)
        if before is not None and directory not in look.listings:
            look.listings[directory] = look.kept[directory] = before
            for way in before.below:
                self._keep(way.path, look)

    def _is_doubtful(self, way: Way, listing: Listing, now: float) -> bool:
        """Whether the directory looks like a mount point without its file system, and not for long."""
        before = self._listings.get(way.path)
        if before is None or listing is before or not listing.shares_nothing_with(before):
            self._doubted.pop(way.path, None)
            return False
        is_another = listing.identity[0] != before.identity[0]
        is_bare = way.depth == 0 and not (listing.found or listing.below)
        if not (is_another or is_bare):
            return False
        return now - self._doubted.setdefault(way.path, now) < _DOUBT_SECONDS

    def _listing(self, way: Way, look: _Look) -> Listing | None:
        """The directory's listing: the one from before where nothing can have changed; None for one visited before."""
        status = os.stat(way.path)  # noqa: PTH116 - done for every directory at every look
        identity = status.st_dev, status.st_ino
        if way.by_link and identity in look.visited:
            return None
        look.visited.add(identity)
        before = self._listings.get(way.path)
        known = None if look.full or before is None or before.identity != identity else before
        if known is None or known.mtime_ns != status.st_mtime_ns or way.path in look.touched:
            changed_at = look.now
        elif known.listed_at - known.changed_at > _UNSETTLED_SECONDS:
            return known
        else:
            changed_at = known.changed_at
        found, below, problem = self._reader.entries(way, set() if before is None else set(before.found))
        look.fresh.append(way.path)
        return Listing(way, identity, status.st_mtime_ns, changed_at, look.now, found, below, problem)

    def _compare(self, look: _Look, unsettled: Set[str]) -> tuple[dict[str, Sighting], dict[str, set[str]]]:
        """What is gone, by path, and names to be stat-ed, by directory."""
        gone: dict[str, Sighting] = {}
        wanted: dict[str, set[str]] = {}
        for directory in look.fresh:
            before, listing = self._listings.get(directory), look.listings[directory]
            if listing is before:
                continue  # listed, and not believed
            stamped = {} if look.full or directory in look.touched else self._stamps.get(directory, {})
            wanted[directory] = {name for name in listing.found if name not in stamped}
            if before is not None:
                self._forget(before, set(before.found) - set(listing.found), gone)
        for directory in self._listings.keys() - look.listings.keys():
            self._forget(self._listings[directory], self._listings[directory].found, gone)
            self._stamps.pop(directory, None)
        stirred = {str(above) for path in look.touched for above in (path, *Path(path).parents)}
        for path in unsettled | stirred | self._unread:
            directory, _, name = path.rpartition("/")
            is_found = name in self._stamps.get(directory, ()) or path in self._unread
            if is_found and directory in look.listings and directory not in look.kept:
                wanted.setdefault(directory, set()).add(name)
        return gone, wanted

    def _forget(self, listing: Listing, names: Iterable[str], gone: dict[str, Sighting]) -> None:
        stamps = self._stamps.get(listing.way.path, {})
        for name in names:
            sighting = self._reader.sighting(listing.way, name)
            self._unread.discard(sighting.path)
            if stamps.pop(name, None) is not None:
                gone[sighting.path] = sighting

    def _restamp(self, way: Way, name: str, look: _Look, seen: dict[str, Sighting], gone: dict[str, Sighting]) -> None:
        """Stat a path that was just listed, and tell if anything is other than it was."""
        path, stamps = f"{way.path}/{name}", self._stamps.setdefault(way.path, {})
        self._unread.discard(path)
        try:
            stamp = _stamp(path, look)
        except FileNotFoundError:
            self._unread.add(path)
            if stamps.pop(name, None) is not None:
                gone[path] = self._reader.sighting(way, name)
            return
        except OSError as error:
            self._unread.add(path)
            look.problems.append(f"{path} cannot be read: {error.strerror}")
            return
        digest = _digest(stamp)
        if stamps.get(name) != digest:
            stamps[name] = digest
            seen[path] = replace(self._reader.sighting(way, name), stamp=stamp)


def _stamp(path: str, look: _Look) -> Stamp:
    """The stamp of a checkpoint; one directory with two names is listed once."""
    status = os.stat(path)  # noqa: PTH116 - done for every file at every full scan
    if not stat.S_ISDIR(status.st_mode):
        return stamp_of(path, status)
    identity = status.st_dev, status.st_ino
    if identity not in look.stamps:
        look.stamps[identity] = stamp_of(path, status)
    return look.stamps[identity]


def _digest(stamp: Stamp) -> bytes:
    told = [(file.path, file.inode, file.size, file.mtime_ns) for file in stamp]
    return hashlib.blake2b(repr(told).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _summary(problems: list[str]) -> str:
    rest = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
    return f"{problems[0]}{rest}" if problems else ""
