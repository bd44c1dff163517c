"""Running the plugins of one job over shared passes: the one place where foreign code is called."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sounding.blame import describe_error
from sounding.contract import Unavailable
from sounding.errors import SoundingError
from sounding.measuring.bench import Bench
from sounding.measuring.collecting import AnyPlugin
from sounding.measuring.discovery import Loaded, load
from sounding.measuring.findings import checked, not_finite
from sounding.measuring.leaks import Watch
from sounding.measuring.options import resolve, suggest
from sounding.measuring.supply import PassFailure
from sounding.recipe import Recipe
from sounding.records import Checkpoint, Copy, Ending, Finding, Job, Skip, Task, TaskResult
from sounding.seeds import seeded
from sounding.stamps import change_of

_ORDER = ("weights", "data", "gradient", "curvature", "offline")  # cheap readings first


class Damage(Exception):
    """What a plugin changed that was not its own."""


def measure(job: Job, loaded: Loaded | None = None, recipe: Recipe | None = None) -> list[TaskResult]:
    """Run every task of a job; results in the job's order. Never raises for plugins, recipes or checkpoints.

    `loaded` and `recipe` replace what is installed and what the job's path names. A checkpoint that changed before
    or during the job gives no number at all: GONE or SUPERSEDED.
    """
    loaded = loaded or load()
    before = _lost(job, job.checkpoint) if job.run_input is None else None
    if before:
        return [TaskResult(task, before[0], before[1]) for task in job.tasks]
    try:
        results = _run_all(job, loaded, recipe)
    except SoundingError as error:  # a tensor of the checkpoint outlived its plugin
        if len(job.tasks) > 1:  # whose, is found out by running them apart; the others keep their readings
            return [measure(replace(job, tasks=(task,)), loaded, recipe)[0] for task in job.tasks]
        results = [TaskResult(task, Ending.FAILED, str(error)) for task in job.tasks]
    return [_if_unchanged(job, result) for result in results]


def _lost(job: Job, checkpoint: Checkpoint) -> tuple[Ending, str] | None:
    """How a checkpoint can no longer be read as what was planned for; None while it, or a copy of it, can."""
    copy = job.copies.get(checkpoint.checkpoint_id, Copy())
    if copy.path:
        return None
    now = change_of(checkpoint.path, checkpoint.stamp)
    if now is None:
        return (Ending.GONE, copy.reason) if copy.is_lost else None
    return now[0], f"{now[1]}; {copy.reason}" if copy.reason else now[1]


def _run_all(job: Job, loaded: Loaded, recipe: Recipe | None) -> list[TaskResult]:
    results: dict[int, TaskResult] = {}
    with Bench(job, loaded, recipe) as bench:
        for index in sorted(range(len(job.tasks)), key=lambda index: _rank(loaded, job.tasks[index])):
            results[index] = _run(bench, loaded, job.tasks[index])
            bench.done(job.tasks[index])
    return [results[index] for index in range(len(job.tasks))]


def _rank(loaded: Loaded, task: Task) -> int:
    plugin = loaded.plugins.get(task.key.plugin)
    return _ORDER.index(plugin.cost) if plugin is not None else 0


def _if_unchanged(job: Job, result: TaskResult) -> TaskResult:
    """`result`, unless a checkpoint it was read from changed meanwhile: an mmap then showed the new bytes."""
    reasons = [result.reason]
    for checkpoint in _read_for(job, result.task):
        now = _lost(job, checkpoint)
        if now:
            return TaskResult(result.task, now[0], now[1], wall_seconds=result.wall_seconds)
        reasons.append(job.copies.get(checkpoint.checkpoint_id, Copy()).reason)
    return replace(result, reason="; ".join(filter(None, dict.fromkeys(reasons))))


def _read_for(job: Job, task: Task) -> tuple[Checkpoint, ...]:
    """The checkpoints that a task may have read."""
    if job.run_input is not None:
        return job.sources
    partner = task.subject.other_checkpoint_id
    return (job.checkpoint, *(each for each in job.others if each.checkpoint_id == partner))


def _run(bench: Bench, loaded: Loaded, task: Task) -> TaskResult:
    name = task.key.plugin
    plugin = loaded.plugins.get(name)
    if plugin is None:
        return TaskResult(task, Ending.FAILED, _why_not(loaded, name))
    start = time.perf_counter()
    damaged = False
    try:
        result = measured(bench, plugin, task)
    except Damage as damage:
        result, damaged = TaskResult(task, Ending.FAILED, str(damage)), True
    except PassFailure as failure:
        result = TaskResult(task, failure.ending, failure.reason)
    except SoundingError as error:
        result = TaskResult(task, Ending.FAILED, str(error))
    if damaged:
        bench.reset()  # passes are shared: what this plugin damaged would be measured by the next one
    return replace(result, wall_seconds=time.perf_counter() - start)


def measured(bench: Bench, plugin: AnyPlugin, task: Task) -> TaskResult:
    """One plugin on one subject. Raises PassFailure, SoundingError for wrong options, and Damage."""
    options = resolve(f"plugin {plugin.name}", plugin.options, task.options)
    arguments = bench.values(plugin, task)
    watched = Watch.over(arguments)
    with seeded(task.subject.checkpoint_id, plugin.name) as seed:
        ending, reason, findings = _call(plugin, arguments, options)
    leaks = watched.leaks()
    if leaks:
        raise Damage(f"{plugin.name} {'; '.join(leaks)}; work on a copy, and leave everything as it was")
    circumstances = bench.circumstances(plugin, task)
    return TaskResult(task, ending, reason, findings, seed=seed.seed if seed.used else None, **circumstances)


def _call(
    plugin: AnyPlugin, arguments: Sequence[Any], options: dict[str, Any]
) -> tuple[Ending, str, tuple[Finding, ...]]:
    try:
        findings = checked(plugin, plugin.function(*arguments, **options))
    except Unavailable as error:  # of what a pass offers on demand
        return Ending.SKIPPED, str(error), ()
    except SoundingError as error:
        return Ending.FAILED, f"{plugin.name} {error}", ()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code; its failure becomes a record
        file = plugin.function.__code__.co_filename
        return Ending.FAILED, f"{plugin.name} raised {describe_error(error, file)}", ()
    skips = [each for each in findings if isinstance(each, Skip)]
    if not findings:
        return Ending.SKIPPED, f"{plugin.name} yielded nothing", ()
    if len(skips) == len(findings):
        return Ending.SKIPPED, "; ".join(_worded(skip) for skip in skips[:3]), tuple(findings)
    return Ending.OK, not_finite(findings), tuple(findings)


def _worded(skip: Skip) -> str:
    return f"{skip.part}: {skip.reason}" if skip.part else skip.reason


def _why_not(loaded: Loaded, name: str) -> str:
    for refusal in loaded.refusals:
        if refusal.name == name:
            return f"the plugin {name} was refused: {refusal.reason}"
    return f"no plugin `{name}` is installed{suggest(name, loaded.plugins)}"
