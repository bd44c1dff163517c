"""One directory of a store as the patterns see it: checkpoints by their names, and ways on to further ones.

Links are followed, by two rules that keep a checkpoint from being seen as two. A link to a directory that is itself
on the way to checkpoints is left out: what lies there is seen where it lies. So is a link that would show a
checkpoint of the store as one of another run.
"""

import os
import re
import sys
from collections.abc import Set
from dataclasses import dataclass

from sounding.config import Store
from sounding.pattern import is_text
from sounding.records import Sighting


@dataclass(frozen=True, slots=True)
class Way:
    """A directory to look into."""

    path: str  # absolute
    relative: str  # to the store; empty for the store itself
    depth: int
    by_link: bool = False  # reached through a link


@dataclass(frozen=True, slots=True)
class Listing:
    """What the patterns make of a directory's entries, as of one modification time."""

    way: Way
    identity: tuple[int, int]  # device and inode
    mtime_ns: int
    changed_at: float  # monotonic time at which the change was noticed
    listed_at: float  # monotonic
    found: tuple[str, ...]  # names of checkpoints; what they tell is read from them when it is asked for
    below: tuple[Way, ...]
    problem: str = ""

    def shares_nothing_with(self, other: "Listing") -> bool:
        """Whether the other has something, and none of it is here."""
        mine, others = self._paths(), other._paths()
        return bool(others) and mine.isdisjoint(others)

    def _paths(self) -> set[str]:
        return {*(f"{self.way.path}/{name}" for name in self.found), *(way.path for way in self.below)}


class Reader:
    """Lists directories of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = str(store.path)
        self._deepest = max(len(pattern.components) for pattern in store.patterns)
        self._ends = [self._components(depth, last=True) for depth in range(self._deepest)]
        self._passages = [self._components(depth, last=False) for depth in range(self._deepest)]

    def entries(self, way: Way, known: Set[str]) -> tuple[tuple[str, ...], tuple[Way, ...], str]:
        """Names of checkpoints in the directory, directories on the way to more, by name, and a problem in words.

        `known` are names of an earlier look, which need not be matched again. Raises OSError.
        """
        found: list[str] = []
        below: list[Way] = []
        omitted = 0
        for name, is_end, is_passage, is_link in sorted(self._relevant(way)):
            if not is_text(name):
                omitted += 1
            elif is_end and (name in known or self._match(way, name) is not None):
                if not (is_link and self._shows_another_run(way, name)):
                    found.append(sys.intern(name))  # thousands of runs have checkpoints of the same names
            elif is_passage:
                below.append(Way(*_place(way, name), way.depth + 1, is_link or way.by_link))
        said = f"{omitted} names in {way.path} are not UTF-8 and left out; rename them" if omitted else ""
        return tuple(found), tuple(below), said

    def sighting(self, way: Way, name: str) -> Sighting:
        """What the name of a checkpoint tells, without a stamp."""
        sighting = self._match(way, name)
        assert sighting is not None, "a name that was found matches"
        return sighting

    def _relevant(self, way: Way) -> list[tuple[str, bool, bool, bool]]:
        """Names that end some pattern, and directories on the way to one: name, which of the two, whether a link."""
        ends, passages = self._ends[way.depth], self._passages[way.depth]
        kept: list[tuple[str, bool, bool, bool]] = []
        with os.scandir(way.path) as entries:
            for entry in entries:
                is_end = any(expression.fullmatch(entry.name) for expression in ends)
                is_passage = any(expression.fullmatch(entry.name) for expression in passages) and _is_directory(entry)
                if is_end or is_passage:
                    kept.append((entry.name, is_end, is_passage, entry.is_symlink()))
        return kept

    def _match(self, way: Way, name: str) -> Sighting | None:
        return self._matched(*_place(way, name))

    def _matched(self, path: str, relative: str) -> Sighting | None:
        for pattern in self._store.patterns:
            match = pattern.match(relative)
            if match is not None:
                return Sighting(self._store.name, match.run, path, match.step, match.parts, ())
        return None

    def _shows_another_run(self, way: Way, name: str) -> bool:
        """Whether the link leads to what is a checkpoint of the store, of another run."""
        linked = self.sighting(way, name)
        target, root = os.path.realpath(linked.path), os.path.realpath(self._root)
        if not target.startswith(f"{root}/"):
            return False
        real = self._matched(target, target.removeprefix(f"{root}/"))
        return real is not None and real.run != linked.run

    def _components(self, depth: int, *, last: bool) -> tuple[re.Pattern[str], ...]:
        """What names may look like at a depth, in patterns that end there, or that go on."""
        found = [p.components for p in self._store.patterns]
        chosen = [c for c in found if (len(c) == depth + 1 if last else len(c) > depth + 1)]
        return tuple(dict.fromkeys(components[depth] for components in chosen))


def _place(way: Way, name: str) -> tuple[str, str]:
    """Absolute path of an entry, and that relative to the store."""
    return f"{way.path}/{name}", f"{way.relative}/{name}" if way.relative else name


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a directory, or a link to one; a link that leads nowhere or in a circle is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False
