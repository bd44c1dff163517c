"""The wall clock may be set at any time; what is decided by it is decided only while it goes on as time does."""

from dataclasses import dataclass
from datetime import datetime

_TOLERANCE = 60.0  # seconds between two looks that are no jump: a clock that is being corrected, a machine that stalls


@dataclass
class Drift:
    """Compares the wall clock with the monotonic one."""

    _offset: float | None = None
    _trusted_from: float = 0.0  # monotonic

    def is_trusted(self, now: float, wall: datetime, grace: float) -> bool:
        """Whether the wall clock was not set in the last `grace` seconds, as far as it was looked at.

        Then what is older than `grace` by its date is so indeed.
        """
        offset = wall.timestamp() - now
        if self._offset is not None and abs(offset - self._offset) > _TOLERANCE:
            self._trusted_from = now + grace
        self._offset = offset
        return now >= self._trusted_from
