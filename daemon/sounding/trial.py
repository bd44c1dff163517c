"""The engine behind the fixture of `sounding.testing`: a plugin run as the worker would, and watched more closely."""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sounding.digest import digest_of
from sounding.errors import SoundingError
from sounding.measuring.bench import Bench
from sounding.measuring.collecting import AnyPass, AnyPlugin, Found
from sounding.measuring.counting import Count, counted
from sounding.measuring.discovery import Loaded, assemble, load
from sounding.measuring.leaks import given_tensors
from sounding.measuring.measure import Damage, measured
from sounding.measuring.supply import PassFailure
from sounding.opening import open_checkpoint
from sounding.passes.past import Past, given_past
from sounding.passes.remembering import forget
from sounding.probe import Probe
from sounding.recipe import Recipe
from sounding.records import (
    Checkpoint,
    Ending,
    Finding,
    Job,
    Key,
    RunInput,
    Subject,
    Task,
    TaskResult,
)
from sounding.stamps import stamp_of


@dataclass
class PluginTrial:
    """A `Trial` that writes its checkpoints into `directory`."""

    directory: Path
    forwards: int = 0
    backwards: int = 0
    reason: str = ""

    def __call__(
        self,
        plugin: AnyPlugin,
        *,
        model: nn.Module | None = None,
        probe: Probe | None = None,
        checkpoint: Mapping[str, Any] | None = None,
        previous: Mapping[str, Any] | None = None,
        functions: Mapping[str, Any] | None = None,
        attributes: Mapping[str, int | float | str] | None = None,
        also: Iterable[AnyPass] = (),
        history: Mapping[Any, Any] | None = None,
        logs: Mapping[str, Any] | None = None,
        checkpoints: Sequence[Mapping[str, Any]] = (),
        **options: object,
    ) -> list[Finding]:
        """Run the plugin twice and return what it found."""
        directory, count = self.directory, Count()
        recipe = _recipe(model, probe, functions or {}, count)
        past = None
        if plugin.over == "run":
            known = tuple(_saved(directory / f"step{step}.pt", tree, step) for step, tree in enumerate(checkpoints))
            job = _job_of_run(plugin, directory, known, options, attributes or {})
            past = given_past(history or {}, logs or {}, known)
        else:
            if checkpoint is None:
                checkpoint = {"model": model.state_dict()} if model is not None else None
            if checkpoint is None:
                raise SoundingError("give `sounding_plugin` a `model` or a `checkpoint` to measure.")
            now = _saved(directory / "now.pt", checkpoint, 1)
            others = () if previous is None else (_saved(directory / "previous.pt", previous, 0),)
            job = Job(1, now, (_task(plugin, now, others, options),), others, dict(attributes or {}))
        result = _twice(job, _loaded(plugin, also), plugin, recipe, past)
        self.reason = result.reason if result.ending is Ending.SKIPPED else ""
        self.forwards, self.backwards = count.forwards // 2, count.backwards // 2
        return list(result.findings)


def _twice(job: Job, loaded: Loaded, plugin: AnyPlugin, recipe: Recipe, past: Past | None = None) -> TaskResult:
    first, second = (_once(job, loaded, plugin, recipe, past) for _ in range(2))
    for one, other in zip(first.findings, second.findings, strict=False):
        if repr(one) != repr(other):
            pytest.fail(f"{plugin.name} found {one} in a first run and {other} in a second: seed what it draws")
    if len(first.findings) != len(second.findings):
        pytest.fail(
            f"{plugin.name} found {len(first.findings)} things in a first run, {len(second.findings)} in a second"
        )
    if first.reason != second.reason:
        pytest.fail(f"{plugin.name} ended with {first.reason!r} in a first run, with {second.reason!r} in a second")
    return first


def _once(job: Job, loaded: Loaded, plugin: AnyPlugin, recipe: Recipe, past: Past | None) -> TaskResult:
    forget()  # else the second run would find what the first one found, and other tests' checkpoints
    try:
        with Bench(job, loaded, recipe, past) as bench:
            result = _watched(bench, job.tasks[0], plugin)
    except SoundingError as error:  # a tensor of the checkpoint outlived the plugin
        pytest.fail(str(error))
    if result.ending not in (Ending.OK, Ending.SKIPPED):
        pytest.fail(result.reason)
    return result


def _watched(bench: Bench, task: Task, plugin: AnyPlugin) -> TaskResult:
    try:
        arguments = bench.values(plugin, task)
        before = digest_of(given_tensors(arguments))
        result = measured(bench, plugin, task)
        # Version counters miss writes through `.data` and numpy; the bytes do not.
        changed = digest_of(given_tensors(arguments)) != before
    except PassFailure as failure:  # skipped, where a pass has no material in this checkpoint
        return TaskResult(task, failure.ending, failure.reason)
    except (Damage, SoundingError) as error:
        return TaskResult(task, Ending.FAILED, str(error))
    if changed:
        reason = f"{plugin.name} wrote to the weights, the model or another pass's tensors; work on a copy"
        return TaskResult(task, Ending.FAILED, reason)
    return result


def _loaded(plugin: AnyPlugin, also: Iterable[AnyPass]) -> Loaded:
    installed = [Found(each, "sounding: installed") for each in load().passes.values()]
    loaded = assemble([*installed, *(Found(each, "test: pass") for each in also), Found(plugin, "test: plugin")])
    for refusal in loaded.refusals:
        pytest.fail(f"{refusal.name} was refused: {refusal.reason}")
    return loaded


def _recipe(model: nn.Module | None, probe: Probe | None, functions: Mapping[str, Any], count: Count) -> Recipe:
    """The recipe of these parts, whose networks are counted."""
    own: dict[str, Any] = {}
    if model is not None:
        own["architecture"] = lambda checkpoint: copy.deepcopy(model)
    if probe is not None:
        own["probe"] = lambda run: probe
    own.update(functions)
    if "architecture" in own:
        own["architecture"] = _counting(own["architecture"], count)
    return Recipe("the test's recipe", 1, own)


def _counting(build: Callable[..., Any], count: Count) -> Callable[..., Any]:
    @functools.wraps(build)  # its parameters say what it is given
    def build_counted(*given: Any) -> Any:
        built = build(*given)
        return counted(built, count) if isinstance(built, nn.Module) else built

    return build_counted


def _saved(path: Path, tree: Mapping[str, Any], step: int) -> Checkpoint:
    torch.save(dict(tree), path)
    with open_checkpoint(str(path)) as opened:
        progress = opened.progress
    name, stamp = path.stem, stamp_of(path)
    return Checkpoint(name, "test", "test", step, str(path), "torch", name, stamp, step, datetime.now(UTC), progress)


def _job_of_run(
    plugin: AnyPlugin,
    directory: Path,
    known: tuple[Checkpoint, ...],
    options: Mapping[str, object],
    attributes: Mapping[str, int | float | str],
) -> Job:
    last = known[-1] if known else _saved(directory / "last.pt", {}, 0)
    subject = Subject("run", "test", "test", last.step, "the run", horizon=last.step, members=len(known), log_rows=0)
    task = Task(Key(plugin.name, plugin.version, "", "", subject.identity), subject, dict(options))
    return Job(1, last, (task,), attributes=dict(attributes), run_input=RunInput(str(directory), (), (), known))


def _task(plugin: AnyPlugin, now: Checkpoint, others: tuple[Checkpoint, ...], options: Mapping[str, object]) -> Task:
    subject = Subject(plugin.over, "test", "test", now.step, now.checkpoint_id)
    if plugin.over == "pair":
        if not others:
            raise SoundingError(f"{plugin.name} compares two checkpoints: give `sounding_plugin` a `previous` one.")
        other = others[0]
        subject = replace(subject, other_run="test", other_step=other.step, other_checkpoint_id=other.checkpoint_id)
    return Task(Key(plugin.name, plugin.version, "", "", subject.identity), subject, dict(options))
