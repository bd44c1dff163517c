"""What the daemon says in its log: its beginning and end, every job, every trouble as it comes and as it goes."""

import logging
from dataclasses import dataclass, field

from sounding.records import SETTLED
from sounding.running.crew import Finished
from sounding.running.status import Status

LOG = logging.getLogger("sounding")
LOG.addHandler(logging.NullHandler())  # in the foreground there is a terminal to look at, and nothing to say here
_STATES = {"starting": "starting", "stopping": "told to stop; jobs under way may still end", "died": "died"}


def say_finished(finished: Finished) -> None:
    """A line for what was measured in a job, and one for each task that was not."""
    job = finished.job
    where = f"{job.checkpoint.run} @ {job.checkpoint.step}"
    if finished.suspects:
        names = ", ".join(task.key.plugin for task in job.tasks)
        LOG.warning("a worker died over %s: each of %s is tried alone", where, names)
    settled = [result for result in finished.results if result.ending in SETTLED]
    if settled:
        seconds = sum(result.wall_seconds for result in settled)
        LOG.info("measured %s in %.2g s: %s", where, seconds, ", ".join(r.task.key.plugin for r in settled))
    for result in finished.results:
        if result.ending not in SETTLED:
            words = (result.task.key.plugin, where, result.ending.value, result.task.attempt, result.reason)
            LOG.warning("%s on %s: %s, attempt %d: %s", *words)


@dataclass
class Narrator:
    """Told every status, it says what is new in it."""

    _state: str = ""
    _troubles: dict[str, None] = field(default_factory=dict)  # an ordered set

    def __call__(self, status: Status) -> None:
        """Say what changed since the last call."""
        if status.state in ("watching", "measuring") and self._state in ("", "starting"):
            watched = ", ".join(store.path for store in status.stores) or "nothing"
            LOG.info("pid %d on %s watches %s", status.pid, status.host, watched)
        elif status.state != self._state and status.state in _STATES:
            LOG.info("%s", _STATES[status.state])
        self._say_troubles(dict.fromkeys(_troubles(status)))
        if status.state == "stopped" != self._state:
            LOG.info("stopped%s", f": {status.message}" if status.message else "")
        self._state = status.state

    def _say_troubles(self, now: dict[str, None]) -> None:
        for text in now:
            if text not in self._troubles:
                LOG.warning("%s", text)
        for text in self._troubles:
            if text not in now:
                LOG.info("no longer: %s", text)
        self._troubles = now


def _troubles(status: Status) -> list[str]:
    if status.state in ("starting", "stopped", "died"):
        return []
    stores = [f"{store.name}: {store.problem}" for store in status.stores if store.problem]
    message = [status.message] if status.message else []
    return [*stores, *(f"refused: {text}" for text in status.refusals), *status.recipe_problems, *message]
