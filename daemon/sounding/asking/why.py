"""Why a checkpoint was measured, or was not: every plugin's story, told from the results, with or without a daemon."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sounding.asking.stories import Explanation, TaskStory
from sounding.asking.why_run import explain_runs, is_over_run
from sounding.config import Settings, Store
from sounding.deciding.patience import given_up
from sounding.deciding.policy import patience
from sounding.errors import SoundingError
from sounding.keeping.ledger import Ledger, Past, Recorded
from sounding.keeping.results import ResultsDirectory
from sounding.records import (
    SETTLED,
    Catalogue,
    Checkpoint,
    Ending,
    Outcome,
    PluginSheet,
    Stamp,
    State,
)
from sounding.running.catalogue import recall
from sounding.running.status import read_status
from sounding.stamps import stamp_of


def why(settings: Settings, text: str) -> list[Explanation]:
    """Explain every checkpoint that `text` names (a path, the beginning of an id, or RUN@STEP), or the run it names.

    Raises SoundingError when it names none, saying what would.
    """
    results = ResultsDirectory(settings.results)
    ledger = Ledger(results)
    if results.jobs.is_dir():
        ledger.refresh()
    catalogue = (recall(settings.results) if results.path.is_dir() else None) or Catalogue({})
    teller = _Teller(settings, ledger, catalogue)
    pasts = [ledger.past(run) for run in sorted(ledger.runs())]
    told = [teller.explain(checkpoint) for checkpoint in _complete(pasts, text)]
    told += [_unfinished(recorded) for recorded in _incomplete(pasts, text)]
    told += explain_runs(settings, ledger, catalogue, text)
    if told:
        return told
    raise SoundingError(_unknown(settings, text))


@dataclass(frozen=True, slots=True)
class _Teller:
    settings: Settings
    ledger: Ledger
    catalogue: Catalogue

    def explain(self, checkpoint: Checkpoint) -> Explanation:
        absence = self._absence(checkpoint)
        stories = [self._story(checkpoint, sheet, absence) for _, sheet in sorted(self.catalogue.plugins.items())]
        stories += [TaskStory(refusal.name, "refused", refusal.reason) for refusal in self.catalogue.refusals]
        recorded = self._past(checkpoint).recorded.get(checkpoint.path)
        reason = "proven whole from its bytes" if recorded is None else recorded.verdict.reason
        return Explanation(
            checkpoint.checkpoint_id,
            checkpoint.store,
            checkpoint.run,
            checkpoint.step,
            checkpoint.path,
            State.COMPLETE,
            f"{reason}; {absence}" if absence else reason,
            tuple(stories),
        )

    def _past(self, checkpoint: Checkpoint) -> Past:
        return self.ledger.past((checkpoint.store, checkpoint.run))

    def _story(self, checkpoint: Checkpoint, sheet: PluginSheet, absence: str) -> TaskStory:
        if is_over_run(sheet):
            return TaskStory(
                sheet.name, "of the run", f"it measures the run as a whole: `sounding why {checkpoint.run}`"
            )
        outcomes = [
            outcome
            for key, outcome in self.ledger.outcomes((checkpoint.store, checkpoint.run)).items()
            if key.plugin == sheet.name and outcome.subject.checkpoint_id == checkpoint.checkpoint_id
        ]
        current = [
            outcome
            for outcome in outcomes
            if (outcome.key.version, outcome.key.options_hash) == (sheet.version, sheet.options_hash)
        ]
        newest = max(current, key=lambda outcome: outcome.seq, default=None)
        if newest is not None and (newest.ending in SETTLED or given_up(newest, patience(self.settings))):
            return self._told_by(newest, sheet)
        unwanted = self._unwanted(checkpoint, sheet)
        if unwanted:
            return TaskStory(sheet.name, "not wanted", unwanted)
        if absence:
            return TaskStory(sheet.name, "gone", f"{absence} before it was measured{_attempted(newest)}")
        if newest is not None:
            return self._told_by(newest, sheet)
        if outcomes:
            return TaskStory(sheet.name, "owed", "measured by another version or with other options; owed again")
        return TaskStory(sheet.name, "owed", "its turn has not come; `sounding status` tells what is running")

    def _absence(self, checkpoint: Checkpoint) -> str:
        """Why the checkpoint cannot be read now under any of its names, or nothing."""
        places = {checkpoint.path: checkpoint.stamp} | {
            recorded.path: recorded.stamp
            for recorded in self._past(checkpoint).recorded.values()
            if recorded.checkpoint is not None and recorded.checkpoint.checkpoint_id == checkpoint.checkpoint_id
        }
        return min((_absence(Path(path), stamp) for path, stamp in places.items()), key=bool)

    def _told_by(self, outcome: Outcome, sheet: PluginSheet) -> TaskStory:
        limits = patience(self.settings)
        against = "" if outcome.subject.other_step is None else f"against step {outcome.subject.other_step}"
        when = f"{outcome.recorded_at:%Y-%m-%d %H:%M:%S} UTC"
        if outcome.ending is Ending.OK:
            return TaskStory(sheet.name, "done", "; ".join(filter(None, (f"measured {when}", against, outcome.reason))))
        if outcome.ending in SETTLED:
            return TaskStory(sheet.name, "skipped", outcome.reason)
        if outcome.ending is Ending.REDO:
            return TaskStory(sheet.name, "owed", f"{outcome.reason} {when}")
        excused = f" ({outcome.mishaps} of them through nobody's fault)" if outcome.mishaps else ""
        count = f"{outcome.ending}, attempt {outcome.attempt}{excused}: {outcome.reason}"
        if given_up(outcome, limits):
            return TaskStory(sheet.name, "failed", f"{count}; given up, `sounding redo` owes it again")
        return TaskStory(sheet.name, "waiting", f"{count}; it will be tried again")

    def _unwanted(self, checkpoint: Checkpoint, sheet: PluginSheet) -> str:
        """Why the plan does not ask for this, or nothing."""
        chosen = self.settings.plugins.get(sheet.name)
        if chosen is not None and not chosen.enabled:
            return "enabled = false in the configuration"
        schedule = self.settings.schedule_of(sheet.name, sheet.cost)
        steps = sorted(known.step for known in self._past(checkpoint).history.values())
        if not schedule.wants(checkpoint.step, steps[0], steps[-1]):
            of = "" if chosen is not None and chosen.schedule is not None else f", as of all that cost {sheet.cost}"
            return f"not at this step: at = {schedule.text!r}{of}"
        if sheet.cost == "offline":
            return "an offline plugin; it runs only on request"
        if sheet.over == "pair" and sheet.against in ("previous", "first") and checkpoint.step == steps[0]:
            return "the first checkpoint of its run has nothing to be compared with"
        if sheet.over == "pair" and sheet.against == "last" and checkpoint.step == steps[-1]:
            return "the last checkpoint of its run has nothing to be compared with"
        return self._without_recipe(checkpoint, sheet)

    def _without_recipe(self, checkpoint: Checkpoint, sheet: PluginSheet) -> str:
        if not sheet.needs_recipe:
            return ""
        store = next((store for store in self.settings.stores if store.name == checkpoint.store), None)
        if store is None or store.recipe is None:
            return "needs the model or data: name a `recipe` for the store in the configuration"
        status = read_status(self.settings.results)
        start = f"{checkpoint.store}/{checkpoint.run}: "
        problems = () if status is None else status.recipe_problems
        told = next((problem.removeprefix(start) for problem in problems if problem.startswith(start)), "")
        return f"the recipe cannot be used: {told}" if told else ""


def _attempted(newest: Outcome | None) -> str:
    if newest is None or newest.ending is Ending.REDO:
        return ""
    return f"; attempt {newest.attempt} ended {newest.ending}: {newest.reason}"


def _absence(path: Path, recorded: Stamp) -> str:
    try:
        stamp = stamp_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return "deleted"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    return "" if stamp == recorded else "overwritten"


def _complete(pasts: Sequence[Past], text: str) -> Iterator[Checkpoint]:
    run, at, step = text.rpartition("@")
    path = _absolute(text)
    recorded = _newest(pasts, path)
    named = None if recorded is None or recorded.checkpoint is None else recorded.checkpoint.checkpoint_id
    for past in pasts:
        for checkpoint in sorted(past.history.values(), key=lambda known: known.ordinal):
            by_step = bool(at) and checkpoint.run == run and str(checkpoint.step) == step
            by_id = len(text) >= 4 and checkpoint.checkpoint_id.startswith(text)
            if by_step or by_id or checkpoint.path == path or checkpoint.checkpoint_id == named:
                yield checkpoint


def _incomplete(pasts: Sequence[Past], text: str) -> Iterator[Recorded]:
    run, at, step = text.rpartition("@")
    newest = _newest(pasts, _absolute(text))
    for recorded in (recorded for past in pasts for recorded in past.recorded.values()):
        by_step = bool(at) and recorded.run[1] == run and str(recorded.step) == step
        if recorded.checkpoint is None and (by_step or recorded is newest):
            yield recorded


def _newest(pasts: Iterable[Past], path: str) -> Recorded | None:
    """The last verdict on a path, which belonged to other runs while the store's pattern was another."""
    known = (past.recorded[path] for past in pasts if path in past.recorded)
    return max(known, key=lambda recorded: recorded.seq, default=None)


def _unfinished(recorded: Recorded) -> Explanation:
    store, run = recorded.run
    verdict = recorded.verdict
    return Explanation("", store, run, recorded.step, recorded.path, verdict.state, verdict.reason, ())


def _unknown(settings: Settings, text: str) -> str:
    path = Path(_absolute(text))
    for store in settings.stores:
        if path.exists() and store.path in path.parents:
            return _unmatched(path, store)
    return f"{text}: no checkpoint by that path, id or RUN@STEP is known; `sounding checkpoints` lists those that are."


def _absolute(text: str) -> str:
    return os.path.normpath(Path(text).expanduser().absolute())  # links stay as they are, as in the configuration


def _unmatched(path: Path, store: Store) -> str:
    relative = str(path.relative_to(store.path))
    if any(pattern.match(relative) for pattern in store.patterns):
        return f"{path}: a checkpoint by its name, but no daemon has looked yet; `sounding scan` looks now."
    patterns = [pattern.text for pattern in store.patterns]
    return f"{path}: no checkpoint by its name: the pattern of store {store.name!r} is {' or '.join(patterns)}."
