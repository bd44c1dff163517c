"""Where the logs of runs lie at this moment: names and `stat` alone, nothing is opened."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sounding.config import Store
from sounding.log_setting import RUN, LogSetting
from sounding.logs.place import Stat
from sounding.logs.reading import LogFile
from sounding.pattern import is_text

_MOST = 1000  # logs of one run under one setting
_UNSETTLED_SECONDS = 2.0  # a directory is listed again so long after a change: its clock may be that coarse


@dataclass(frozen=True, slots=True)
class Found:
    """A log that is there, and what `stat` says of it."""

    log: LogFile
    stat: Stat


@dataclass(frozen=True, slots=True)
class _Listing:
    mtime_ns: int
    changed_at: float  # when the change was noticed
    listed_at: float
    names: tuple[str, ...]


@dataclass
class Finder:
    """Looks for the logs of one store again and again; directories are listed only when they have changed."""

    store: Store
    _listings: dict[str, _Listing] = field(default_factory=dict)  # by path

    def find(self, run: str, newest: str | None, now: float) -> Iterator[Found]:
        """The logs of a run, those last written to last in each setting; `newest` is its last written checkpoint."""
        if run in ("", ".", ".."):
            return
        for setting in self.store.logs:
            found = [
                Found(LogFile(self.store.name, run, setting.text, name, path, setting.updates), stat)
                for name, path in self._places(setting, run, newest, now)
                if (stat := _stat(path)) is not None
            ]
            found.sort(key=lambda each: (each.stat[2], _natural(each.log.name)))
            yield from found[-_MOST:]

    def _places(self, setting: LogSetting, run: str, newest: str | None, now: float) -> Iterator[tuple[str, str]]:
        """Name and absolute path of each place to look at."""
        if not setting.inside:
            names = setting.text.replace("*", "\0").replace(RUN, run).split("/")  # a run may have an asterisk in it
            yield from ((name, f"{self.store.path}/{name}") for name in self._expand("", names, now))
        elif newest is not None:
            path = f"{newest}/{setting.inside}"
            if Path(path).resolve().parent == Path(newest).resolve():  # no link leads out of the checkpoint
                yield setting.text, path

    def _expand(self, above: str, names: list[str], now: float) -> Iterator[str]:
        """Paths below the store whose components are `names`, NUL standing for anything."""
        if not names:
            yield above.lstrip("/")
            return
        name, *rest = names
        if "\0" not in name:
            yield from self._expand(f"{above}/{name}", rest, now)
            return
        expression = re.compile("[^/]*".join(map(re.escape, name.split("\0"))), re.DOTALL)
        for entry in self._list(f"{self.store.path}{above}", now):
            if expression.fullmatch(entry):
                yield from self._expand(f"{above}/{entry}", rest, now)

    def _list(self, directory: str, now: float) -> tuple[str, ...]:
        """The names in a directory; none where it cannot be listed."""
        known = self._listings.get(directory)
        try:
            mtime_ns = Path(directory).stat().st_mtime_ns
            if known is not None and known.mtime_ns == mtime_ns:
                if known.listed_at - known.changed_at > _UNSETTLED_SECONDS:
                    return known.names
                changed_at = known.changed_at
            else:
                changed_at = now
            names = tuple(sorted(filter(is_text, os.listdir(directory))))
        except OSError:
            self._listings.pop(directory, None)
            return ()
        self._listings[directory] = _Listing(mtime_ns, changed_at, now, names)
        return names


def _stat(path: str) -> Stat | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Orders `version_9` before `version_10`."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))
