"""Runs as a whole: how long each must be quiet to rest, what is owed on it, and what a job on it may read."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from sounding.config import Settings
from sounding.deciding.plan import Owed, RunView, Wish, owed
from sounding.deciding.policy import patience
from sounding.deciding.runs import Stock, grounds, rest_seconds, stock, wanted_of_run
from sounding.keeping.ledger import Ledger, RunName
from sounding.keeping.tally import Tally
from sounding.records import Checkpoint, RunInput, Task


@dataclass
class Wholes:
    """Knows what is offered and owed of runs, beside what is owed of their checkpoints."""

    settings: Settings
    ledger: Ledger
    wishes: tuple[Wish, ...]
    _rests_after: dict[RunName, float] = field(default_factory=dict)  # seconds
    _logged: Tally = field(init=False)

    def __post_init__(self) -> None:
        self._logged = Tally(self.ledger.results.logs)

    @property
    def any_wanted(self) -> bool:
        """Whether some plugin is over runs."""
        return any(wish.sheet.over == "run" for wish in self.wishes)

    def rests_after(self, run: RunName) -> float:
        """Seconds in which nothing must have come before the run rests; as of its last plan."""
        return self._rests_after.get(run, self.settings.daemon.idle_seconds)

    def read_logs(self) -> set[RunName]:
        """Take note of what was logged since the last call; the runs whose logs have grown."""
        return self._logged.refresh() if self.any_wanted else set()

    def plan(self, view: RunView, others: Iterable[Owed], wall: datetime) -> Owed | None:
        """What is owed on the run itself, given what is owed on its checkpoints.

        At rest it is measured once more when they are all measured, and not before: every one of them would be news.
        """
        if not self.any_wanted:
            return None
        self._rests_after[view.store, view.run] = rest_seconds(view.history, self.settings.daemon.idle_seconds)
        resting = not view.growing and not any(each.tasks for each in others)
        limits = patience(self.settings)
        offered = self._stock((view.store, view.run))
        wants = wanted_of_run(view, offered, self.wishes, self.settings.passes, limits, resting=resting)
        return next(iter(owed(wants, self.ledger.outcomes((view.store, view.run)), limits, wall).values()), None)

    def input(self, run: RunName, tasks: Iterable[Task], readable: tuple[Checkpoint, ...]) -> RunInput:
        """What a job on the run may read: what its plan was made from, which was in the same turn."""
        names = {task.key.plugin for task in tasks}
        used = {each.name for wish in self.wishes if wish.sheet.name in names for each in wish.sheet.passes}
        opened = readable if "checkpoints" in used else ()
        return RunInput(str(self.settings.results), self.ledger.listed, grounds(self._stock(run)), opened)

    def _stock(self, run: RunName) -> Stock:
        in_force = {name: (known.version, known.options_hash) for name, known in self.ledger.settings.items()}
        return stock(self.ledger.outcomes(run).values(), in_force, self._logged.state(run))
