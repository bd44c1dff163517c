"""Jobs that could not be begun, because the device they were meant for had no room: owed, and left for a while."""

from dataclasses import dataclass, field

from sounding.records import Key
from sounding.running.outbox import Finished

_PAUSE = 30.0  # seconds until a job is offered again; asking costs a worker some memory on a device that has little


@dataclass
class Postponed:
    """What is not to be offered to a worker now; nothing of it outlives the process."""

    reason: str = ""  # why the last one was not begun; empty once something was
    _until: dict[Key, float] = field(default_factory=dict)

    def take(self, finished: Finished, now: float) -> None:
        """Take in how a job ended."""
        self.reason = finished.postponed
        if finished.postponed:
            self._until |= dict.fromkeys((task.key for task in finished.job.tasks), now + _PAUSE)

    def keys(self, now: float) -> frozenset[Key]:
        """Tasks to leave alone at this moment."""
        self._until = {key: until for key, until in self._until.items() if until > now}
        return frozenset(self._until)
