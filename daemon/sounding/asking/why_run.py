"""Why a run as a whole was measured, or was not: the story of every plugin over runs."""

from collections.abc import Iterator
from dataclasses import dataclass

from sounding.asking.stories import Explanation, TaskStory
from sounding.config import Settings
from sounding.deciding.patience import given_up
from sounding.deciding.policy import patience
from sounding.deciding.runs import ENOUGH, Stock, stock
from sounding.keeping.ledger import Ledger, RunName
from sounding.keeping.tally import Tally
from sounding.records import SETTLED, Catalogue, Ending, Outcome, PluginSheet


def explain_runs(settings: Settings, ledger: Ledger, catalogue: Catalogue, name: str) -> Iterator[Explanation]:
    """A story of every run of this name; none where there is no such run, or no plugin over runs."""
    sheets = [sheet for _, sheet in sorted(catalogue.plugins.items()) if is_over_run(sheet)]
    tally = Tally(ledger.results.logs)
    for run in sorted(run for run in ledger.runs() if run[1] == name and ledger.past(run).history):
        tally.refresh()
        in_force = {plugin: (known.version, known.options_hash) for plugin, known in ledger.settings.items()}
        teller = _Teller(settings, run, stock(ledger.outcomes(run).values(), in_force, tally.state(run)))
        if sheets:
            stories = tuple(teller.story(sheet) for sheet in sheets)
            yield Explanation("", *run, None, "", "run", teller.amount, stories)


def is_over_run(sheet: PluginSheet) -> bool:
    """Whether a plugin measures runs and not their checkpoints."""
    return sheet.over in ("run", "group")


@dataclass(frozen=True, slots=True)
class _Teller:
    settings: Settings
    run: RunName
    offered: Stock

    @property
    def amount(self) -> str:
        """How much there is to measure."""
        rows = self.offered.log.rows
        return f"{len(self.offered.measured)} measurements of its checkpoints, {rows} rows of its training log"

    def story(self, sheet: PluginSheet) -> TaskStory:
        """What became of one plugin on the run."""
        newest = max(
            (
                outcome
                for outcome in self.offered.latest.values()
                if (outcome.key.plugin, outcome.key.version, outcome.key.options_hash)
                == (sheet.name, sheet.version, sheet.options_hash)
            ),
            key=lambda outcome: outcome.seq,
            default=None,
        )
        unwanted = self._unwanted(sheet)
        if unwanted and (newest is None or newest.ending not in SETTLED):
            return TaskStory(sheet.name, "not wanted", unwanted)
        return self._untold(sheet) if newest is None else self._told(sheet, newest)

    def _untold(self, sheet: PluginSheet) -> TaskStory:
        if not self.offered.measured and not self.offered.log.rows:
            return TaskStory(sheet.name, "owed", "nothing to measure yet: no reading of a checkpoint, and no log")
        return TaskStory(sheet.name, "owed", f"once it has {ENOUGH} inputs, or when the run rests; {self.amount}")

    def _told(self, sheet: PluginSheet, newest: Outcome) -> TaskStory:
        subject = newest.subject
        entered = f"{subject.members or 0} measurements or checkpoints and {subject.log_rows or 0} log rows"
        when = f"{newest.recorded_at:%Y-%m-%d %H:%M:%S} UTC, up to {subject.horizon}, from {entered}"
        again = "again when a tenth more has come, and when the run rests"
        if newest.ending is Ending.OK:
            return TaskStory(sheet.name, "done", "; ".join(filter(None, (f"measured {when}", newest.reason, again))))
        if newest.ending is Ending.SKIPPED:
            return TaskStory(sheet.name, "skipped", f"{newest.reason} ({when}); {again}")
        if newest.ending is Ending.REDO:
            return TaskStory(sheet.name, "owed", f"{newest.reason} {newest.recorded_at:%Y-%m-%d %H:%M:%S} UTC")
        count = f"{newest.ending}, attempt {newest.attempt}: {newest.reason}"
        if given_up(newest, patience(self.settings)):
            return TaskStory(sheet.name, "failed", f"{count}; given up until a tenth more has come, or `sounding redo`")
        return TaskStory(sheet.name, "waiting", f"{count}; it will be tried again")

    def _unwanted(self, sheet: PluginSheet) -> str:
        """Why the plan does not ask for this, or nothing."""
        chosen = self.settings.plugins.get(sheet.name)
        if chosen is not None and not chosen.enabled:
            return "enabled = false in the configuration"
        if sheet.over == "group":
            return "plugins over groups of runs are not planned"
        if sheet.cost == "offline":
            return "an offline plugin; it runs only on request"
        store = next((store for store in self.settings.stores if store.name == self.run[0]), None)
        if sheet.needs_recipe and (store is None or store.recipe is None):
            return "needs the model or data: name a `recipe` for the store in the configuration"
        return ""
