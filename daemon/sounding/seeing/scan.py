"""Listing a store: which paths look like checkpoints, and what `stat` says of them.

Bounded by the depth of the patterns and cheap when little changes: directories are stat-ed each time, listed only
when their modification time moved, and settled checkpoints are looked at again only by a full scan. Events, where
there are any, merely name directories to list again.
"""

import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from sounding.config import Store
from sounding.records import Sighting, Stamp
from sounding.stamps import stamp_of

# A directory is listed again this long after a change: the clock of its file system may be that coarse, and a look
# itself takes time.
_UNSETTLED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What the patterns make of a directory's entries, as of one modification time."""

    mtime_ns: int
    changed_at: float  # monotonic time at which the change was noticed
    listed_at: float  # monotonic
    found: Mapping[str, Sighting]  # by absolute path, without stamps
    below: tuple[str, ...]  # directories to look into, relative to the store
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look at a store saw, and what it could not see.

    Where the store itself could not be listed, the sightings are those of the last good look.
    """

    sightings: Mapping[str, Sighting]  # by absolute path; changes with the next look
    changed: frozenset[str]  # paths that are new, have another stamp, or are gone since the last look
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Look:
    """One look under way."""

    now: float
    full: bool
    touched: Set[str]
    listings: dict[str, Listing] = field(default_factory=dict)  # by absolute path of the directory
    problems: list[str] = field(default_factory=list)


@dataclass
class Scanner:
    """Looks at one store again and again, remembering only what saves it work."""

    store: Store
    _listings: dict[str, Listing] = field(default_factory=dict)
    _seen: dict[str, Sighting] = field(default_factory=dict)
    _unread: set[str] = field(default_factory=set)  # found, but `stat` failed

    def scan(self, now: float, *, full: bool, touched: Set[str], unsettled: Set[str]) -> Scan:
        """Look once.

        `now` is monotonic; `touched` holds directories that events named; `unsettled` the paths of checkpoints that
        may still change and are to be stat-ed again.
        """
        look = _Look(now, full, touched)
        try:
            self._walk(look)
        except OSError as error:
            return Scan(self._seen, frozenset(), f"{self.store.path} cannot be listed: {error.strerror or error}")
        gone, wanted = self._compare(look, unsettled)
        changed = {path for path in gone if self._seen.pop(path, None) is not None}
        self._unread -= gone
        for path, sighting in wanted.items():
            if self._restamp(path, sighting, look.problems):
                changed.add(path)
        self._listings = look.listings
        return Scan(self._seen, frozenset(changed), _summary(look.problems))

    def _walk(self, look: _Look) -> None:
        level: tuple[str, ...] = ("",)
        for depth in range(max(len(pattern.components) for pattern in self.store.patterns)):
            level = tuple(below for relative in level for below in self._visit(relative, depth, look))

    def _visit(self, relative: str, depth: int, look: _Look) -> tuple[str, ...]:
        directory = f"{self.store.path}/{relative}" if relative else str(self.store.path)
        try:
            listing = self._listing(directory, relative, depth, look)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            if not relative:
                raise
            if isinstance(error, PermissionError):
                look.problems.append(f"{directory} cannot be listed: {error.strerror}")
            return ()
        look.listings[directory] = listing
        if listing.problem:
            look.problems.append(listing.problem)
        return listing.below

    def _listing(self, directory: str, relative: str, depth: int, look: _Look) -> Listing:
        """The directory's listing: the one from before where nothing can have changed."""
        mtime_ns = Path(directory).stat().st_mtime_ns
        before = self._listings.get(directory)
        known = None if look.full else before
        if known is None or known.mtime_ns != mtime_ns or directory in look.touched:
            changed_at = look.now
        elif known.listed_at - known.changed_at > _UNSETTLED_SECONDS:
            return known
        else:
            changed_at = known.changed_at
        names = list(self._entries(directory, depth))
        readable = sorted(filter(_is_text, names))
        omitted = len(names) - len(readable)
        problem = f"{omitted} names in {directory} are not UTF-8 and left out; rename them" if omitted else ""
        found: dict[str, Sighting] = {}
        below: list[str] = []
        for name in readable:
            path = f"{relative}/{name}" if relative else name
            sighting = (before.found.get(f"{directory}/{name}") if before else None) or self._match(path)
            if sighting is None:
                below.append(path)
            else:
                found[sighting.path] = sighting
        return Listing(mtime_ns, changed_at, look.now, found, tuple(below), problem)

    def _entries(self, directory: str, depth: int) -> Iterator[str]:
        """Names that end some pattern, and directories on the way to one."""
        ends = [p.components[depth] for p in self.store.patterns if len(p.components) == depth + 1]
        passages = [p.components[depth] for p in self.store.patterns if len(p.components) > depth + 1]
        with os.scandir(directory) as entries:
            for entry in entries:
                is_end = any(expression.fullmatch(entry.name) for expression in ends)
                is_passage = any(expression.fullmatch(entry.name) for expression in passages)
                if is_end or (is_passage and _is_directory(entry)):
                    yield entry.name

    def _match(self, relative: str) -> Sighting | None:
        for pattern in self.store.patterns:
            match = pattern.match(relative)
            if match is not None:
                path = f"{self.store.path}/{relative}"
                return Sighting(self.store.name, match.run, path, match.step, match.parts, ())
        return None

    def _compare(self, look: _Look, unsettled: Set[str]) -> tuple[set[str], dict[str, Sighting]]:
        """Paths that are gone, and sightings to be stat-ed."""
        gone: set[str] = set()
        wanted: dict[str, Sighting] = {}
        for directory, listing in look.listings.items():
            before = self._listings.get(directory)
            if listing is not before:
                again = look.full or directory in look.touched
                wanted |= {path: seen for path, seen in listing.found.items() if again or path not in self._seen}
            if before is not None and listing is not before:
                gone |= before.found.keys() - listing.found.keys()
        for directory in self._listings.keys() - look.listings.keys():
            gone |= self._listings[directory].found.keys()
        stirred = {str(above) for path in look.touched for above in (path, *Path(path).parents)}
        for path in (unsettled | stirred | self._unread) - gone:
            listing_of = look.listings.get(path.rpartition("/")[0])
            if listing_of is not None and path in listing_of.found:
                wanted[path] = listing_of.found[path]
        return gone, wanted

    def _restamp(self, path: str, sighting: Sighting, problems: list[str]) -> bool:
        """Stat a path that was just listed; whether anything is other than it was."""
        before = self._seen.get(path)
        self._unread.discard(path)
        try:
            stamp: Stamp = stamp_of(Path(path))
        except OSError as error:
            self._unread.add(path)
            if not isinstance(error, FileNotFoundError):
                problems.append(f"{path} cannot be read: {error.strerror}")
            return self._seen.pop(path, None) is not None
        if before is not None and before.stamp == stamp:
            return False
        self._seen[path] = replace(sighting, stamp=stamp)
        return True


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a directory, or a link to one; a link that leads nowhere or in a circle is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_text(name: str) -> bool:
    """Whether the name can be written down; the others, from file systems of old, hold bytes that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _summary(problems: list[str]) -> str:
    rest = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
    return f"{problems[0]}{rest}" if problems else ""
