"""Deciding: the work owed is what is wanted less what is done. Pure functions, of records alone.

What is wanted follows from the checkpoints, the plugins and their schedules; what is done is the newest outcome of
each key. Nothing is queued: a plan is made anew whenever either side changes, and doing it leaves an empty plan.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sounding.deciding.patience import Patience, given_up, next_attempt
from sounding.records import (
    SETTLED,
    Against,
    Checkpoint,
    Ending,
    Key,
    Outcome,
    PluginSheet,
    RecipeSheet,
    Subject,
    Task,
)
from sounding.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Wish:
    """A plugin the operator wants, with its schedule and the options in force."""

    sheet: PluginSheet
    schedule: Schedule


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as the planner sees it."""

    store: str
    run: str
    readable: tuple[Checkpoint, ...]  # complete and there now, one per step, ascending
    history: tuple[Checkpoint, ...]  # every complete one ever, current generation, ascending
    undecided: tuple[int, ...] = ()  # steps of sightings that may yet become complete
    growing: bool = True  # newer checkpoints are still expected
    recipe: RecipeSheet | None = None  # None while there is none, or none known yet
    models: tuple[str, ...] = ("",)
    networks: Mapping[str, str] = field(default_factory=dict)  # key in the checkpoint, by the name of a model


@dataclass(frozen=True, slots=True)
class Wanted:
    """A piece of work that ought to be done, whether or not it has been."""

    key: Key
    subject: Subject
    sheet: PluginSheet
    checkpoint: Checkpoint
    other: Checkpoint | None = None
    before: Outcome | None = None  # what this goes on from, where its own key has no outcome yet


@dataclass(frozen=True, slots=True)
class Owed:
    """The tasks owed on one checkpoint that are due, and those that wait for a retry."""

    checkpoint: Checkpoint
    tasks: tuple[Task, ...]
    others: tuple[Checkpoint, ...]
    waiting: int = 0


def checkpoint_identity(store: str, run: str, step: int, fingerprint: str) -> str:
    """The checkpoint's id: path is no part of it, so the same content under two names is one checkpoint."""
    return digest_text([store, run, step, fingerprint])


def basis(
    sheet: PluginSheet, recipe: RecipeSheet | None, passes: Mapping[str, Mapping[str, object]], network: str = ""
) -> str:
    """Digest of everything but the plugin itself that its numbers rest on; `network` is a key in the checkpoint."""
    ground: list[object] = [[used.name, used.version, used.options_hash] for used in sheet.passes]
    ground.append({used.name: passes[used.name] for used in sheet.passes if used.name in passes})
    if sheet.needs_recipe and recipe is not None:
        ground.append([recipe.version, dict(sorted(recipe.probe_hashes.items()))])
    if network:
        ground.append({"network": network})
    return digest_text(ground)


def wanted(
    view: RunView,
    wishes: Iterable[Wish],
    outcomes: Mapping[Key, Outcome],
    passes: Mapping[str, Mapping[str, object]],
) -> Iterator[Wanted]:
    """Everything that ought to be done in a run, on the checkpoints that can be read now."""
    if not view.readable:
        return
    first, last = view.history[0].step, view.history[-1].step
    for wish in wishes:
        sheet = wish.sheet
        if sheet.cost == "offline" or sheet.over not in ("checkpoint", "pair"):
            continue
        if sheet.needs_recipe and (view.recipe is None or view.recipe.error):
            continue
        grounds = {model: basis(sheet, view.recipe, passes, view.networks.get(model, "")) for model in view.models}
        for checkpoint in view.readable:
            if not wish.schedule.wants(checkpoint.step, first, None if view.growing else last):
                continue
            for model, ground in grounds.items():
                yield from _on(view, sheet, ground, checkpoint, model, outcomes)


def owed(
    wants: Iterable[Wanted], outcomes: Mapping[Key, Outcome], patience: Patience, now: datetime
) -> dict[str, Owed]:
    """What is wanted and not done, by checkpoint id; work that was given up is not owed."""
    tasks: dict[str, list[Task]] = {}
    others: dict[str, dict[str, Checkpoint]] = {}
    waiting: dict[str, int] = {}
    checkpoints: dict[str, Checkpoint] = {}
    for want in wants:
        outcome = outcomes.get(want.key, want.before)
        identity = want.checkpoint.checkpoint_id
        if outcome is not None and (outcome.ending in SETTLED or given_up(outcome, patience)):
            continue
        checkpoints[identity] = want.checkpoint
        if outcome is not None and outcome.ending is not Ending.REDO and not patience.due(outcome, now):
            waiting[identity] = waiting.get(identity, 0) + 1
            continue
        options = {option.name: option.value for option in want.sheet.options}
        tasks.setdefault(identity, []).append(
            Task(want.key, want.subject, options, *next_attempt(outcome), want.sheet.cost)
        )
        if want.other is not None:
            others.setdefault(identity, {})[want.other.checkpoint_id] = want.other
    return {
        identity: Owed(
            checkpoint,
            tuple(tasks.get(identity, ())),
            tuple(others.get(identity, {}).values()),
            waiting.get(identity, 0),
        )
        for identity, checkpoint in checkpoints.items()
    }


def coarse_to_fine(count: int) -> list[int]:
    """Positions 0 … count-1, ascending in time, in the order to measure them.

    The newest first, then the rest so that every prefix of the order is spread over the whole run.
    """
    if count == 0:
        return []
    rest = sorted(range(count - 1), key=lambda position: (_level(position), -position))
    return [count - 1, *rest]


def _level(position: int) -> int:
    """Smaller for multiples of larger powers of two; 0 comes first of all."""
    return -64 if position == 0 else -((position & -position).bit_length())


def _on(
    view: RunView,
    sheet: PluginSheet,
    ground: str,
    checkpoint: Checkpoint,
    model: str,
    outcomes: Mapping[Key, Outcome],
) -> Iterator[Wanted]:
    if sheet.over == "checkpoint":
        subject = Subject("checkpoint", view.store, view.run, checkpoint.step, checkpoint.checkpoint_id, model)
        yield Wanted(_key(sheet, ground, subject), subject, sheet, checkpoint)
        return
    readable = {known.checkpoint_id for known in view.readable}
    for other in _partners(view, checkpoint, sheet.against):
        want = _pair(view, sheet, ground, checkpoint, other, model)
        if other.checkpoint_id in readable:
            if not _better_may_come(view, checkpoint, other, sheet.against):
                yield want
            return
        done = outcomes.get(want.key)
        if done is not None and done.ending in SETTLED:
            return  # measured before the other was deleted; its absence owes nothing anew


def _partners(view: RunView, checkpoint: Checkpoint, against: Against | None) -> list[Checkpoint]:
    """Second checkpoints of a pair in order of preference, from all ever recorded."""
    below = [known for known in view.history if known.step < checkpoint.step]
    if against == "previous":
        return below[::-1]
    if against == "first":
        return below
    if against == "last" and not view.growing:
        return [known for known in view.history[:0:-1] if known.step > checkpoint.step]
    return []


def _better_may_come(view: RunView, checkpoint: Checkpoint, other: Checkpoint, against: Against | None) -> bool:
    """Whether a sighting that is still undecided would be preferred to `other`."""
    if against == "previous":
        return any(other.step < step < checkpoint.step for step in view.undecided)
    return against == "first" and any(step < other.step for step in view.undecided)


def _pair(
    view: RunView, sheet: PluginSheet, ground: str, checkpoint: Checkpoint, other: Checkpoint, model: str
) -> Wanted:
    subject = Subject(
        "pair",
        view.store,
        view.run,
        checkpoint.step,
        checkpoint.checkpoint_id,
        model,
        other.run,
        other.step,
        other.checkpoint_id,
    )
    return Wanted(_key(sheet, ground, subject), subject, sheet, checkpoint, other)


def _key(sheet: PluginSheet, ground: str, subject: Subject) -> Key:
    return Key(sheet.name, sheet.version, sheet.options_hash, ground, subject.identity)


def digest_text(value: object) -> str:
    """Digest of plain values, equal in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
