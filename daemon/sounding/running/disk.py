"""The disk under the results: whether anything may be begun on it, and what to tell a person if not.

Nothing is lost while it is full or read-only: what was to be written stays owed, and work resumes by itself.
"""

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sounding.errors import SoundingError
from sounding.keeping.results import ResultsDirectory

_PAUSE = 5.0  # seconds after the disk refused something; doubled with every refusal up to
_LONGEST_PAUSE = 60.0
_PROBE, _PROBE_BYTES = "probe", 1 << 16
_LOOK_SECONDS = 1.0  # between two looks at the free space
_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of the quota",
    errno.EROFS: "mount it for writing again",
    errno.EACCES: "give this user the right to write there",
}


@dataclass
class Disk:
    """Remembers what was refused, and how long to wait before anything is tried again."""

    results: ResultsDirectory
    keep_free_bytes: int = 0
    problem: str = ""  # in words for a person; empty when all is well
    _paused_until: float = 0.0
    _refused: bool = False  # something could not be written, and nothing has been written since
    _pause: float = field(default=_PAUSE)
    _next_look: float = 0.0

    def may_publish(self, now: float) -> bool:
        """Whether finished work may be given its place, which takes hardly any space."""
        return not self._refused or now >= self._paused_until

    def may_begin(self, now: float) -> bool:
        """Whether anything new may be written or begun."""
        return now >= self._paused_until

    def look(self, now: float) -> bool:
        """See whether there is space and, after a refusal, whether it is over; true when it has just ended.

        Raises OSError when the disk still refuses.
        """
        if now < max(self._paused_until, self._next_look):
            return False
        was_refused = self._refused
        if was_refused:
            _try(self.results.tmp / _PROBE)
            self._refused, self.problem = False, ""
        self._next_look = now + _LOOK_SECONDS
        free = shutil.disk_usage(self.results.path).free
        if free < self.keep_free_bytes:
            self._paused_until = now + _PAUSE
            kept = f"the {self.keep_free_bytes / 1e6:g} MB that [results] keep_free keeps free"
            what = f"{free / 1e6:.0f} MB are free, less than {kept}"
            self.problem = f"{self.results.path}: {what}; measuring goes on when there is space"
        else:
            self.problem = ""
        return was_refused

    def refused(self, error: OSError, now: float) -> None:
        """Something could not be read or written: wait."""
        remedy = _REMEDIES.get(error.errno or 0, "")
        self._refused, self._paused_until = True, now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        said = str(error) if error.strerror is None else error.strerror
        self.problem = f"{self.results.path}: {said}{f'; {remedy}' if remedy else ''}; trying again, nothing is lost"

    def wrote(self) -> None:
        """Something was written."""
        self._pause = _PAUSE


def make_ready(results: ResultsDirectory) -> None:
    """Make the rooms of a results directory. Raises SoundingError when nothing can be written there."""
    try:
        results.prepare()
        _try(results.tmp / _PROBE)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "see to it")
        raise SoundingError(
            f"{error.filename or results.path}: results cannot be written: {error.strerror or error}; {remedy}, "
            f"or name another place under [results] path."
        ) from error


def _try(path: Path) -> None:
    """Write a little, as results are written. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        written = os.write(descriptor, b"\0" * _PROBE_BYTES)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
    if written < _PROBE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
