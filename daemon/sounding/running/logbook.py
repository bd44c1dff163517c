"""`daemon.log`: what a daemon in the background said, a line each; written by one process, read by any.

What plugins print stands between the daemon's lines as it came. Children keep writing to the file they were given, so
a full log is copied away and emptied, never renamed.
"""

import logging
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_FILE = "daemon.log"
MOST_BYTES = 4 << 20  # of the log, and of the one before it that is kept
_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ([A-Z]+) +(.*)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log; without time and level where it is not the daemon's own."""

    line: str

    def plain(self) -> dict[str, str | None]:
        """For programs."""
        found = _LINE.fullmatch(self.line)
        time_, level, text = found.groups() if found else (None, None, self.line)
        return {"time": time_, "level": level, "text": text}


class Pen(RotatingFileHandler):
    """Writes the log: UTC time, level, words, one line each."""

    def __init__(self, results: Path, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(results / LOG_FILE, maxBytes=most_bytes, backupCount=1, encoding="utf-8")
        self.rotator = _copy_and_empty
        form = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        form.converter = time.gmtime
        self.setFormatter(form)

    def format(self, record: logging.LogRecord) -> str:
        """One line, also for an error of several."""
        return " ".join(super().format(record).split("\n"))

    def bound(self) -> None:
        """Empty the log where what others wrote into it has made it too long."""
        self.acquire()
        try:
            if Path(self.baseFilename).stat().st_size >= self.maxBytes:
                self.doRollover()
        finally:
            self.release()


@dataclass
class Reader:
    """Reads on in a log that is being written."""

    results: Path
    _position: int = 0

    def last(self, count: int) -> list[Entry]:
        """The last so many lines, of this log and the one before; `more` continues behind them."""
        before, now = self.results / f"{LOG_FILE}.1", self.results / LOG_FILE
        earlier = before.read_bytes() if before.exists() else b""
        text = now.read_bytes()
        self._position = text.rfind(b"\n") + 1
        return [*deque(map(_entry, chain(earlier.splitlines(), text[: self._position].splitlines())), count)]

    def more(self) -> Iterator[Entry]:
        """Whole lines written since; those of a log that was emptied meanwhile begin at its head."""
        with (self.results / LOG_FILE).open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._position:
                self._position = 0
            file.seek(self._position)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._position += whole
        yield from map(_entry, text[:whole].splitlines())


def _entry(line: bytes) -> Entry:
    return Entry(line.decode("utf-8", "replace"))


def _copy_and_empty(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.truncate(source, 0)
