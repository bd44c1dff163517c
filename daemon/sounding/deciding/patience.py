"""How often and how soon work that was not settled is tried again. Pure functions of its last outcome."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sounding.records import BLAMELESS, SETTLED, Ending, Outcome

_MISHAP_PATIENCE = 5  # what nobody is to blame for is borne this many times as often as failures
_LONGEST_DELAY = timedelta(hours=1)
_TURN = timedelta(minutes=1)  # an outcome recorded in a turn is a little younger than the turn's own time


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how soon a piece of work is tried again.

    Failures and mishaps are counted apart: work that the machine's restarts interrupted has all its attempts left,
    and work under which the machine dies again and again is given up all the same.
    """

    attempts: int
    retry: timedelta

    def exhausted(self, outcome: Outcome) -> bool:
        """Whether the work is given up until somebody asks for it again."""
        return outcome.failures >= self.attempts or outcome.mishaps >= self.attempts * _MISHAP_PATIENCE

    def due(self, outcome: Outcome, now: datetime) -> bool:
        """Whether the delay after a failed attempt has passed; it doubles with every attempt of its kind.

        An outcome from the far future means that a clock jumped: it is due.
        """
        if outcome.ending is Ending.INTERRUPTED or outcome.recorded_at > now + _TURN:
            return True
        count = outcome.mishaps if outcome.ending in BLAMELESS else outcome.failures
        delay: timedelta = min(self.retry * 2 ** min(count - 1, 20), _LONGEST_DELAY)
        return now >= outcome.recorded_at + delay


def given_up(outcome: Outcome, patience: Patience) -> bool:
    """Whether an unsettled outcome is the last there will be, short of a `redo`."""
    return outcome.ending not in SETTLED and outcome.ending is not Ending.REDO and patience.exhausted(outcome)


def next_attempt(outcome: Outcome | None) -> tuple[int, int]:
    """Number of the attempt to come, and how many before it ended through nobody's fault."""
    if outcome is None or outcome.ending is Ending.REDO:
        return 1, 0
    return outcome.attempt + 1, outcome.mishaps
