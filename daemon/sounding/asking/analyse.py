"""One checkpoint, measured now: no daemon, no configuration, nothing kept."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sounding.contract import Run
from sounding.deciding.plan import basis, checkpoint_identity
from sounding.errors import SoundingError
from sounding.records import (
    Catalogue,
    Checkpoint,
    Curve,
    Ending,
    Examination,
    Job,
    Key,
    Over,
    PluginSheet,
    Reading,
    RecipeSheet,
    Sighting,
    Skip,
    State,
    Subject,
    Task,
    TaskResult,
)
from sounding.running.catalogue import describe_with
from sounding.running.dispatch import Child, Limits, call_and_wait
from sounding.stamps import stamp_of

_INSTEAD = {
    "checkpoint": "leave out --against",
    "pair": "name a second checkpoint with --against",
    "run": "it needs the daemon",
    "group": "it needs the daemon",
}
_LIMITS = Limits(deadline_seconds=3600.0, memory_bytes=1 << 50)  # a person is watching, and can stop it


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found in one checkpoint; `notes` says what was not measured, and why."""

    checkpoint: Checkpoint
    readings: tuple[Mapping[str, Any], ...]
    curves: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


class _Found(NamedTuple):
    """A checkpoint that was examined, with the attributes of its run."""

    checkpoint: Checkpoint
    attributes: dict[str, int | float | str]


def analyse(
    path: Path,
    *,
    plugins: Sequence[str] = (),
    options: Mapping[str, Mapping[str, object]] | None = None,
    recipe: Path | None = None,
    against: Path | None = None,
) -> Analysis:
    """Measure one checkpoint with the plugins named, or with all that a lone checkpoint (and the recipe) allows.

    With `against`, another checkpoint, of whatever run, it is compared with that one, by plugins over pairs.

    Raises SoundingError when a path is no complete checkpoint or a plugin cannot be used.
    """
    child = Child("analysis")
    try:
        other = None if against is None else _examine(child, against.absolute())
        return _analyse(child, _examine(child, path.absolute()), plugins, options or {}, recipe, other)
    finally:
        child.stop()


def _analyse(
    child: Child,
    found: _Found,
    plugins: Sequence[str],
    options: Mapping[str, Mapping[str, object]],
    recipe: Path | None,
    other: _Found | None,
) -> Analysis:
    checkpoint, attributes = found
    over: Over = "checkpoint" if other is None else "pair"
    sheets = _chosen(describe_with(child, options, {}), plugins, recipe is not None, over)
    sheet = None
    if recipe is not None and any(chosen.needs_recipe for chosen in sheets):
        run = Run(checkpoint.store, checkpoint.run, attributes)
        sheet = call_and_wait(child, "sounding.recipe:survey", (str(recipe.absolute()), run), _LIMITS)
        if sheet.error:
            raise SoundingError(sheet.error)
    job = Job(
        seq=0,
        checkpoint=checkpoint,
        tasks=tuple(_task(_subject(checkpoint, other), chosen, sheet) for chosen in sheets),
        others=() if other is None else (other.checkpoint,),
        attributes=attributes,
        other_attributes={} if other is None else {other.checkpoint.checkpoint_id: other.attributes},
        recipe=None if recipe is None else str(recipe.absolute()),
        recipe_sheet=sheet,
    )
    results: Sequence[TaskResult] = call_and_wait(child, "sounding.measuring.measure:measure", (job,), _LIMITS)
    return _gather(checkpoint, results, {chosen.name: chosen for chosen in sheets})


def _examine(child: Child, path: Path) -> _Found:
    if not path.exists():
        raise SoundingError(f"{path}: no such file or directory.")
    numbers = re.findall(r"\d+", path.name)
    step = int(numbers[-1]) if numbers else None
    sighting = Sighting("", path.parent.name, str(path), step, {}, stamp_of(path))
    found: Examination = call_and_wait(
        child, "sounding.seeing.examine:examine", (sighting, (), str(path.parent)), _LIMITS
    )
    if found.verdict.state is not State.COMPLETE:
        raise SoundingError(f"{path}: {found.verdict.state}: {found.verdict.reason}.")
    if found.progress.step is not None:
        step = int(found.progress.step.value)
    known = 0 if step is None else step
    checkpoint = Checkpoint(
        checkpoint_identity("", sighting.run, known, found.fingerprint),
        "",
        sighting.run,
        known,
        str(path),
        found.format,
        found.fingerprint,
        sighting.stamp,
        0,
        datetime.now(UTC),
        found.progress,
    )
    attributes = {a.key: a.text if a.number is None else a.number for a in found.attributes}
    return _Found(checkpoint, attributes)


def _chosen(catalogue: Catalogue, plugins: Sequence[str], has_recipe: bool, over: Over) -> list[PluginSheet]:
    refused = {refusal.name: refusal.reason for refusal in catalogue.refusals}
    for name in plugins:
        if name in refused:
            raise SoundingError(f"plugin {name}: {refused[name]}")
        if name not in catalogue.plugins:
            raise SoundingError(f"no plugin {name!r}; there are {', '.join(sorted(catalogue.plugins))}.")
        sheet = catalogue.plugins[name]
        if sheet.over != over:
            raise SoundingError(f"plugin {name} is over a {sheet.over}, not over a {over}; {_INSTEAD[sheet.over]}.")
        if sheet.needs_recipe and not has_recipe:
            raise SoundingError(f"plugin {name} needs the model or data of the run: name a recipe file with --recipe.")
    if plugins:
        return [catalogue.plugins[name] for name in dict.fromkeys(plugins)]
    return [
        sheet
        for _, sheet in sorted(catalogue.plugins.items())
        if sheet.over == over and sheet.cost != "offline" and (has_recipe or not sheet.needs_recipe)
    ]


def _subject(checkpoint: Checkpoint, other: _Found | None) -> Subject:
    subject = Subject("checkpoint", checkpoint.store, checkpoint.run, checkpoint.step, checkpoint.checkpoint_id)
    if other is None:
        return subject
    second = other.checkpoint
    return replace(
        subject,
        over="pair",
        other_run=second.run,
        other_step=second.step,
        other_checkpoint_id=second.checkpoint_id,
    )


def _task(subject: Subject, sheet: PluginSheet, recipe: RecipeSheet | None) -> Task:
    key = Key(sheet.name, sheet.version, sheet.options_hash, basis(sheet, recipe, {}), subject.identity)
    return Task(key, subject, {option.name: option.value for option in sheet.options})


def _gather(checkpoint: Checkpoint, results: Sequence[TaskResult], sheets: Mapping[str, PluginSheet]) -> Analysis:
    readings: list[Mapping[str, Any]] = []
    curves: list[Mapping[str, Any]] = []
    notes: list[str] = []
    for result in results:
        plugin = result.task.key.plugin
        units = {metric.name: metric.unit for metric in sheets[plugin].metrics}
        if result.ending is not Ending.OK:
            notes.append(f"{plugin}: {result.ending}: {result.reason}")
        for finding in result.findings:
            if isinstance(finding, Skip):
                notes.append(f"{plugin}: {finding.part or 'all'}: {finding.reason}")
                continue
            row = {
                "plugin": plugin,
                "metric": finding.metric,
                "part": finding.part,
                "kind": finding.kind,
                "split": finding.split,
                "unit": units[finding.metric],
                "status": finding.quality,
            }
            if isinstance(finding, Reading):
                place = {"group": finding.group, "index": finding.index}
                bounds = {"low": finding.low, "high": finding.high, "stderr": finding.stderr}
                readings.append({**row, **place, "value": finding.value, "label": finding.label, **bounds})
            elif isinstance(finding, Curve):
                curves.append({**row, "x": finding.x, "y": finding.y})
    return Analysis(checkpoint, tuple(readings), tuple(curves), tuple(notes))
