"""Choosing the next job from all that is owed: newest first, then backfill from coarse to fine. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from sounding.deciding.plan import Owed, coarse_to_fine
from sounding.records import Checkpoint, Ending, Key, Outcome, Task

DEADLY = frozenset({Ending.CRASHED, Ending.TIMEOUT, Ending.MEMORY, Ending.INTERRUPTED})


_OF_RUN = 0.5  # rank of what is owed on a run: it is rare, so it delays no backfill by much


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is owed in one run, with its readable checkpoints in ascending order."""

    readable: tuple[Checkpoint, ...]
    owed: Mapping[str, Owed]  # by checkpoint id
    whole: Owed | None = None  # what is owed on the run itself

    @property
    def everything(self) -> tuple[Owed, ...]:
        """All that is owed, in no order."""
        return (*self.owed.values(), *(() if self.whole is None else (self.whole,)))

    def in_order(self) -> Iterator[tuple[float, Owed]]:
        """What is owed with its rank: 0 for the newest checkpoint, then the run itself, then coarse to fine."""
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

    A task under which a worker or the daemon has died before runs alone, so that it can harm only itself.
    """
    best: tuple[tuple[float, float], Choice] | None = None
    for plan in plans:
        for rank, owed in plan.in_order():
            urgency = (min(rank, 1), -owed.checkpoint.first_seen.timestamp() if rank == 0 else rank)
            if best is not None and urgency >= best[0]:
                break  # ranks only grow within a run
            choice = _choice(owed, running, is_suspect)
            if choice is not None:
                best = (urgency, choice)
                break
    return None if best is None else best[1]


def suspects(outcomes: Mapping[Key, Outcome], alone: set[Key]) -> Callable[[Key], bool]:
    """The test for `choose`: died before by the record, or caught in a death just now."""

    def is_suspect(key: Key) -> bool:
        outcome = outcomes.get(key)
        return key in alone or (outcome is not None and outcome.ending in DEADLY)

    return is_suspect


def _choice(owed: Owed, running: frozenset[Key], is_suspect: Callable[[Key], bool]) -> Choice | None:
    free = [task for task in owed.tasks if task.key not in running]
    if not free:
        return None
    together = tuple(task for task in free if not is_suspect(task.key)) or (free[0],)
    partners = {task.subject.other_checkpoint_id for task in together}
    others = tuple(other for other in owed.others if other.checkpoint_id in partners)
    return Choice(owed.checkpoint, together, others)
