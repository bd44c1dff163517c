"""Choosing the next job from all that is owed: newest first, then backfill from coarse to fine. Pure.

What costs much waits until nothing else is owed, so that cheap readings of all checkpoints never wait for it. Where a
run deletes its old checkpoints, those that it will delete next go before everything else, oldest first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sounding.deciding.plan import Owed, coarse_to_fine
from sounding.records import Checkpoint, Ending, Key, Outcome, Task

DEAR = frozenset({"curvature"})  # costs of what is measured apart, and last
DEADLY = frozenset({Ending.CRASHED, Ending.TIMEOUT, Ending.MEMORY, Ending.INTERRUPTED})


_AT_RISK = -1.0
_OF_RUN = 0.5  # rank of what is owed on a run: it is rare, so it delays no backfill by much


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is owed in one run, with its readable checkpoints in ascending order."""

    readable: tuple[Checkpoint, ...]
    owed: Mapping[str, Owed]  # by checkpoint id
    whole: Owed | None = None  # what is owed on the run itself
    at_risk: tuple[Checkpoint, ...] = ()  # of the readable ones, those that rotation will take, the first to go first

    @property
    def everything(self) -> tuple[Owed, ...]:
        """All that is owed, in no order."""
        return (*self.owed.values(), *(() if self.whole is None else (self.whole,)))

    def in_order(self) -> Iterator[tuple[float, Owed]]:
        """What is owed with its rank: -1 for what is at risk, 0 for the newest, then the run itself, coarse to fine."""
        for checkpoint in self.at_risk:
            owed = self.owed.get(checkpoint.checkpoint_id)
            if owed is not None and owed.tasks:
                yield _AT_RISK, owed
        ranked: list[tuple[float, Owed | None]] = [
            (rank, self.owed.get(self.readable[position].checkpoint_id))
            for rank, position in enumerate(coarse_to_fine(len(self.readable)))
        ]
        ranked.insert(1, (_OF_RUN, self.whole))
        yield from ((rank, owed) for rank, owed in ranked if owed is not None and owed.tasks)


@dataclass(frozen=True, slots=True)
class Choice:
    """Tasks to run together on one checkpoint, or on the run that it is the last one of."""

    checkpoint: Checkpoint
    tasks: tuple[Task, ...]
    others: tuple[Checkpoint, ...]

    @property
    def of_run(self) -> bool:
        """Whether the run itself is measured."""
        return self.tasks[0].subject.over == "run"


def choose(plans: Iterable[RunPlan], running: frozenset[Key], is_suspect: Callable[[Key], bool]) -> Choice | None:
    """The next job, or None when everything owed is under way.

    A task under which a worker or the daemon has died before runs alone, so that it can harm only itself. What is dear
    comes last; on a checkpoint that will be deleted next it comes at once, in a job of its own.
    """
    every = tuple(plans)
    return _first(every, running, is_suspect, dear=False) or _first(every, running, is_suspect, dear=True)


def _first(
    plans: Iterable[RunPlan], running: frozenset[Key], is_suspect: Callable[[Key], bool], *, dear: bool
) -> Choice | None:
    best: tuple[tuple[float, float], Choice] | None = None
    for plan in plans:
        for rank, owed in plan.in_order():
            urgency = _urgency(rank, owed.checkpoint.first_seen)
            if best is not None and urgency >= best[0]:
                break  # ranks only grow within a run
            choice = _choice(owed, running, is_suspect, dear=dear or rank == _AT_RISK)
            if choice is not None:
                best = (urgency, choice)
                break
    return None if best is None else best[1]


def at_risk(readable: Iterable[Checkpoint], history: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
    """The checkpoints that a run which deletes old ones will delete next, the first to go first; else none.

    They are those that came after the last one that vanished: what came before it was spared, and will be kept. That
    the newest vanish tells of no rotation.
    """
    here = sorted(readable, key=lambda known: known.ordinal)
    present = {known.checkpoint_id for known in here}
    newest = here[-1].ordinal if here else -1
    vanished = [c.ordinal for c in history if c.checkpoint_id not in present and c.ordinal < newest]
    return tuple(known for known in here if known.ordinal > max(vanished)) if vanished else ()


def _urgency(rank: float, first_seen: datetime) -> tuple[float, float]:
    """Smaller is sooner, over all runs: at risk, oldest first; then the newest of each, newest first; then the rest."""
    if rank == _AT_RISK:
        return rank, first_seen.timestamp()
    return min(rank, 1), -first_seen.timestamp() if rank == 0 else rank


def suspects(outcomes: Mapping[Key, Outcome], alone: set[Key]) -> Callable[[Key], bool]:
    """The test for `choose`: died before by the record, or caught in a death just now."""

    def is_suspect(key: Key) -> bool:
        outcome = outcomes.get(key)
        return key in alone or (outcome is not None and outcome.ending in DEADLY)

    return is_suspect


def _choice(owed: Owed, running: frozenset[Key], is_suspect: Callable[[Key], bool], *, dear: bool) -> Choice | None:
    waiting = [task for task in owed.tasks if task.key not in running]
    cheap = [task for task in waiting if task.cost not in DEAR]
    free = cheap or (waiting if dear else [])
    if not free:
        return None
    together = tuple(task for task in free if not is_suspect(task.key)) or (free[0],)
    partners = {task.subject.other_checkpoint_id for task in together}
    others = tuple(other for other in owed.others if other.checkpoint_id in partners)
    return Choice(owed.checkpoint, together, others)
