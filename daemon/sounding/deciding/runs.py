"""What is wanted of a run as a whole: first when there is enough of it, again when it has grown, once more at rest.

Nothing here reads a clock: whether the run rests is told by the caller, what was measured by the newest outcomes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import TypeAlias

from sounding.deciding.patience import Patience, given_up
from sounding.deciding.plan import RunView, Wanted, Wish, basis, digest_text
from sounding.records import SETTLED, Checkpoint, Ending, Ground, Key, LogState, Outcome, PluginSheet, Subject

ENOUGH = 10  # inputs; with fewer, every single one would be growth by a tenth
_GAPS = 3  # the last pauses between checkpoints, whose middle one tells how long a run may pause
_PATIENT = 2  # times that

Series: TypeAlias = tuple[str, int, str, str, str]  # plugin, version, options hash, basis, model


@dataclass(frozen=True, slots=True)
class Stock:
    """What a run offers to plugins over it."""

    measured: tuple[Outcome, ...] = ()  # readings in force over its checkpoints and pairs
    latest: Mapping[Series, Outcome] = field(
        default_factory=dict
    )  # the newest outcome of every measurement over the run itself
    log: LogState = LogState()


def stock(outcomes: Iterable[Outcome], settings: Mapping[str, tuple[int, str]], log: LogState | None = None) -> Stock:
    """What a run offers, from its newest outcomes; `settings` are version and options in force by plugin."""
    measured: list[Outcome] = []
    latest: dict[Series, Outcome] = {}
    bases: dict[tuple[str, str], Outcome] = {}
    for outcome in outcomes:
        key, subject = outcome.key, outcome.subject
        if subject.over in ("run", "group"):
            series = _series(key, subject.model)
            if series not in latest or latest[series].seq < outcome.seq:
                latest[series] = outcome
        elif outcome.ending in SETTLED and settings.get(key.plugin) == (key.version, key.options_hash):
            measured.append(outcome)
            place = (key.plugin, subject.model)
            if place not in bases or bases[place].seq < outcome.seq:
                bases[place] = outcome
    current = (
        each
        for each in measured
        if each.ending is Ending.OK and each.key.basis == bases[each.key.plugin, each.subject.model].key.basis
    )
    return Stock(tuple(current), latest, log or LogState())


def newest_horizons(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """These outcomes, less those over runs that a later one over the same run has replaced."""
    latest: dict[tuple[Series, str, str], Outcome] = {}
    for outcome in outcomes:
        if outcome.subject.over not in ("run", "group"):
            yield outcome
            continue
        place = (_series(outcome.key, outcome.subject.model), outcome.subject.store, outcome.subject.run)
        if place not in latest or latest[place].seq < outcome.seq:
            latest[place] = outcome
    yield from latest.values()


def grounds(of: Stock) -> tuple[Ground, ...]:
    """Under which settings the readings in force were made: what a reader of the results must keep to."""
    found = {(o.key.plugin, o.key.version, o.key.options_hash, o.key.basis, o.subject.model) for o in of.measured}
    return tuple(Ground(*each) for each in sorted(found))


def wanted_of_run(
    view: RunView,
    of: Stock,
    wishes: Iterable[Wish],
    passes: Mapping[str, Mapping[str, object]],
    patience: Patience,
    *,
    resting: bool,
) -> Iterator[Wanted]:
    """What ought to be measured of the run as a whole now; `resting` says that nothing more is expected of it."""
    if not view.history:
        return
    for wish in wishes:
        sheet = wish.sheet
        if sheet.over != "run" or sheet.cost == "offline":
            continue
        if sheet.needs_recipe and (view.recipe is None or view.recipe.error):
            continue
        for model in view.models:
            ground = basis(sheet, view.recipe, passes, view.networks.get(model, ""))
            series = (sheet.name, sheet.version, sheet.options_hash, ground, model)
            before = of.latest.get(series)
            entering = _entering(view, of, sheet, model)
            if _is_due(entering, before, patience, resting=resting, growth=wish.schedule.everything):
                subject = entering.subject
                key = Key(sheet.name, sheet.version, sheet.options_hash, ground, subject.identity)
                counted = before if before is not None and _goes_on(before, patience) else None
                yield Wanted(key, subject, sheet, view.history[-1], before=counted)


def rest_seconds(history: Iterable[Checkpoint], least: float) -> float:
    """How long nothing must have come before a run is taken to rest: `least`, and longer for one that pauses longer.

    The pauses are those between its last checkpoints as the daemon saw them come. One long pause (of the job, or of
    the daemon) tells nothing, nor do checkpoints that were there before the daemon: they came at once.
    """
    seen = sorted(checkpoint.first_seen for checkpoint in history)[-_GAPS - 1 :]
    pauses = sorted(later - earlier for earlier, later in pairwise(seen))
    usual = pauses[(len(pauses) - 1) // 2] if pauses else timedelta()
    return max(least, _PATIENT * usual.total_seconds())


@dataclass(frozen=True, slots=True)
class _Entering:
    """What would enter a measurement now."""

    view: RunView
    model: str
    measured: tuple[Outcome, ...]
    checkpoints: tuple[Checkpoint, ...]
    log: LogState

    @property
    def members(self) -> int:
        return len(self.measured) + len(self.checkpoints)

    @property
    def horizon(self) -> int:
        steps = [each.subject.step for each in self.measured] + [each.step for each in self.checkpoints]
        if self.log.last is not None:
            steps.append(self.log.last)
        return max(steps, default=self.step)

    @property
    def step(self) -> int:
        return self.view.history[-1].step

    @property
    def subject(self) -> Subject:
        readings = sorted(f"{each.seq} {each.key.plugin} {each.subject.identity}" for each in self.measured)
        opened = [each.checkpoint_id for each in self.checkpoints]
        return Subject(
            "run",
            self.view.store,
            self.view.run,
            self.step,
            digest_text([self.view.store, self.view.run, readings, opened, self.log.chain]),
            self.model,
            horizon=self.horizon,
            members=self.members,
            log_rows=self.log.rows,
        )


def _entering(view: RunView, of: Stock, sheet: PluginSheet, model: str) -> _Entering:
    used = {each.name for each in sheet.passes}
    measured = tuple(each for each in of.measured if each.subject.model == model) if "history" in used else ()
    checkpoints = view.readable if "checkpoints" in used else ()
    return _Entering(view, model, measured, checkpoints, of.log if "logs" in used else LogState())


def _is_due(entering: _Entering, before: Outcome | None, patience: Patience, *, resting: bool, growth: bool) -> bool:
    size = entering.members + entering.log.rows
    if size == 0:
        return False
    if before is None:
        return resting or (growth and size >= ENOUGH)
    if _goes_on(before, patience):
        return True
    return (growth and _has_grown(entering, before.subject)) or (resting and _has_changed(entering, before.subject))


def _has_grown(entering: _Entering, last: Subject) -> bool:
    """Whether either input has grown by a tenth; a log that has shrunk was begun again, which is news too."""
    rows, before = entering.log.rows, last.log_rows or 0
    return _by_a_tenth(entering.members, last.members or 0) or _by_a_tenth(rows, before) or _by_a_tenth(before, rows)


def _has_changed(entering: _Entering, last: Subject) -> bool:
    """Whether there is anything that was not measured; that checkpoints were deleted since is nothing."""
    if entering.members < (last.members or 0):
        return (entering.horizon, entering.log.rows) != (last.horizon, last.log_rows or 0)
    return entering.subject.identity != last.identity


def _goes_on(before: Outcome, patience: Patience) -> bool:
    """Whether the last attempt was asked to be repeated, by its own failure or by a person."""
    return before.ending not in SETTLED and not given_up(before, patience)


def _by_a_tenth(now: int, before: int) -> bool:
    return now > before and 10 * now >= 11 * before


def _series(key: Key, model: str) -> Series:
    return key.plugin, key.version, key.options_hash, key.basis, model
