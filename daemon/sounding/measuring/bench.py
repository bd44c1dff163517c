"""A job's checkpoints, opened, with the passes of each: what its plugins are served from."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import torch

from sounding.contract import OF_ONE, Run
from sounding.errors import SoundingError
from sounding.keeping.past import read_courses
from sounding.keeping.series import read_series
from sounding.measuring.collecting import AnyPass, AnyPlugin
from sounding.measuring.discovery import Loaded
from sounding.measuring.pairing import asked_of_one, asked_of_other, offered_by_other, paired, paired_only
from sounding.measuring.supply import PassFailure, Supply
from sounding.opening import Opened, open_checkpoint
from sounding.passes import History, Logs, Other, Past
from sounding.recipe import Recipe, load_recipe
from sounding.records import Checkpoint, Copy, Ending, Job, RecipeSheet, Subject, Task


class Bench:
    """Opens on demand, serves tasks, and lets go of everything at the end; a context manager."""

    def __init__(self, job: Job, loaded: Loaded, recipe: Recipe | None = None, past: Past | None = None) -> None:
        self.job = job
        self.loaded = loaded
        self._recipe = recipe
        self._past = past  # in place of what the job's files tell
        self._pasts: list[Past] = []
        self._pending = list(job.tasks)
        self._supplies: dict[tuple[str, str], Supply] = {}
        self._pairs: dict[Subject, Supply] = {}  # passes over a pair
        self._opened: dict[str, Opened] = {}
        self._checkpoints = {each.checkpoint_id: each for each in (*job.others, job.checkpoint)}

    def __enter__(self) -> "Bench":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything computed and close every file; what is asked for later is read anew."""
        self._supplies.clear()
        self._pairs.clear()
        with ExitStack() as stack:
            for each in self._opened.values():
                stack.callback(each.close)
            for past in self._pasts:
                for close in past.closing:
                    stack.callback(close)
            self._opened, self._pasts = {}, []

    def values(self, plugin: AnyPlugin, task: Task) -> list[Any]:
        """A plugin's positional arguments. Raises PassFailure when one of them cannot be had."""
        values = [self._value(plugin, need, task.subject) for need in plugin.needs]
        self._trim()
        return values

    def _value(self, plugin: AnyPlugin, need: str, subject: Subject) -> Any:
        if need == "other":
            return self._other(plugin, subject)
        if paired(self.loaded, need):
            return self._pair(subject).get(need)
        return self._of_one(need, subject)

    def _of_one(self, need: str, subject: Subject) -> Any:
        key = (subject.checkpoint_id, subject.model)
        return self.supply(*key).get(need, self._wanted(*key))

    def circumstances(self, plugin: AnyPlugin, task: Task) -> dict[str, Any]:
        """Probe, floating-point type and device a plugin measured with, as far as its needs involve them."""
        supply = self.supply(task.subject.checkpoint_id, task.subject.model)
        reached = self.loaded.transitive(plugin.needs)
        dtypes = [supply.dtypes.get(name, "") for name in ("model", "weights") if name in reached]
        passes = [self.loaded.passes[name] for name in reached if name in self.loaded.passes and name != "model"]
        probed = any(each.kind == "accumulator" for each in passes)
        # Who names the recipe takes examples from it.
        asked = probed or "recipe" in plugin.needs or any("recipe" in each.needs for each in passes)
        recipe: Recipe | None = supply.get("recipe") if asked else None
        given = recipe is not None and (probed or "probe" in recipe.functions)
        return {
            "probe": recipe.probe(supply.get("run")).hash if recipe is not None and given else "",
            "dtype": next(iter(dtypes), ""),
            "device": self.job.device if "device" in reached else "cpu",
        }

    def done(self, task: Task) -> None:
        """Free what only this task still needed."""
        self._pending.remove(task)
        self._trim()

    def _trim(self) -> None:
        for key, supply in self._supplies.items():
            supply.trim(self._wanted(*key))
        for subject, supply in self._pairs.items():
            supply.trim(
                need
                for task, plugin in self._to_run()
                if task.subject == subject
                for need in plugin.needs
                if paired(self.loaded, need)
            )

    def supply(self, checkpoint_id: str, network: str) -> Supply:
        """The passes of one network of one of the job's checkpoints."""
        key = (checkpoint_id, network)
        if key not in self._supplies:
            roots = self._roots_of(checkpoint_id, network)
            self._supplies[key] = Supply(self.loaded, roots, self.job.passes, checkpoint_id)
        return self._supplies[key]

    def _roots_of(self, subject_id: str, network: str) -> Mapping[str, Callable[[], Any]]:
        checkpoint = self._checkpoints.get(subject_id)
        if checkpoint is not None:
            return self._roots(checkpoint, network)
        if any(task.subject.checkpoint_id == subject_id and task.subject.over == "run" for task in self.job.tasks):
            last = self.job.checkpoint
            roots = self._roots(last, network)
            kept = {name: make for name, make in roots.items() if name not in OF_ONE}
            return {**kept, "past": partial(self._look_back, last, network)}
        raise PassFailure(Ending.FAILED, f"the job does not carry the checkpoint {subject_id}")

    def _look_back(self, last: Checkpoint, network: str) -> Past:
        past, given = self._past, self.job.run_input
        if past is None:
            if given is None:
                raise SoundingError("the job does not carry what is known of the run.")
            past = Past(
                lambda: History(read_courses(given, last.store, last.run, network)),
                lambda: Logs(read_series(given.results, last.store, last.run)),
                given.checkpoints,
            )
        self._pasts.append(past)
        return past

    def _roots(self, checkpoint: Checkpoint, network: str) -> Mapping[str, Callable[[], Any]]:
        same_run = (checkpoint.store, checkpoint.run) == (self.job.checkpoint.store, self.job.checkpoint.run)
        others = self.job.other_attributes.get(checkpoint.checkpoint_id, {})
        run = Run(checkpoint.store, checkpoint.run, dict(self.job.attributes if same_run else others))
        return {
            "opened": partial(self._open, checkpoint),
            "checkpoint": lambda: checkpoint,
            "run": lambda: run,
            "recipe": partial(self._load_recipe, run),
            "network": lambda: self.job.models.get(network, network),
            "device": lambda: torch.device(self.job.device),
        }

    def _open(self, checkpoint: Checkpoint) -> Opened:
        if checkpoint.checkpoint_id not in self._opened:
            self._opened[checkpoint.checkpoint_id] = self._open_readable(checkpoint)
        return self._opened[checkpoint.checkpoint_id]

    def _copy_of(self, checkpoint: Checkpoint) -> Copy:
        return self.job.copies.get(checkpoint.checkpoint_id, Copy())

    def _open_readable(self, checkpoint: Checkpoint) -> Opened:
        try:
            return open_checkpoint(self._copy_of(checkpoint).path or checkpoint.path)
        except SoundingError as error:
            if isinstance(error.__cause__, OSError):  # a stale handle, a failing disk: no plugin's fault
                raise PassFailure(Ending.GONE, str(error)) from None
            raise

    def _load_recipe(self, run: Run) -> Recipe:
        if self._recipe is not None:
            return self._recipe
        if self.job.recipe is None:
            raise SoundingError("the store has no recipe; name one with `recipe = …` in its [[stores]] table.")
        recipe = load_recipe(self.job.recipe)
        planned = self.job.recipe_sheet
        if planned is not None and not planned.error:
            probes = recipe.probes(run) if "probe" in recipe.functions else {}
            _require_same(planned, RecipeSheet(recipe.version, {name: probe.hash for name, probe in probes.items()}))
        return recipe

    def _pair(self, subject: Subject) -> Supply:
        """The passes over a pair; what they need of its checkpoints comes from those' own supplies."""
        if subject not in self._pairs:
            passes = paired_only(self.loaded)
            needed = {need for item in passes.passes.values() for need in item.needs} - set(passes.passes)
            roots = {need: partial(self._of_one, need, subject) for need in needed}
            seed = f"{subject.checkpoint_id}|{subject.other_checkpoint_id}"
            other = partial(self._other, subject=subject)
            self._pairs[subject] = Supply(passes, roots, self.job.passes, seed, other)
        return self._pairs[subject]

    def _other(self, user: AnyPlugin | AnyPass, subject: Subject) -> Other:
        """The second checkpoint, as a plugin or a pass over the pair may see it."""
        checkpoint_id = subject.other_checkpoint_id
        if checkpoint_id is None:
            raise PassFailure(Ending.FAILED, "the task names no second checkpoint")
        key = (checkpoint_id, subject.model)
        supply, wanted = self.supply(*key), self._wanted(*key)
        names = offered_by_other(self.loaded, user)
        if self._copy_of(self._checkpoints[checkpoint_id]).only_weights and "opened" not in user.needs:
            names = tuple(name for name in names if name != "opened")  # it would lack what was not copied
        try:
            return Other({name: supply.get(name, wanted) for name in names})
        except PassFailure as failure:
            where = f"the second checkpoint ({self._checkpoints[checkpoint_id].path})"
            raise PassFailure(failure.ending, f"{where}: {failure.reason}") from None

    def _to_run(self) -> Iterator[tuple[Task, AnyPlugin]]:
        for task in self._pending:
            plugin = self.loaded.plugins.get(task.key.plugin)
            if plugin is not None:
                yield task, plugin

    def _wanted(self, checkpoint_id: str, network: str) -> list[str]:
        """Direct needs of the tasks still to be run, as far as they concern one network of one checkpoint."""
        wanted: list[str] = []
        for task, plugin in self._to_run():
            if task.subject.model != network:
                continue
            if task.subject.checkpoint_id == checkpoint_id:
                wanted.extend(asked_of_one(self.loaded, plugin))
            if task.subject.other_checkpoint_id == checkpoint_id:
                wanted.extend(asked_of_other(self.loaded, plugin))
        return wanted


def _require_same(planned: RecipeSheet, found: RecipeSheet) -> None:
    if planned.version != found.version:
        raise SoundingError(
            f"the recipe is version {found.version} now, and was {planned.version} when this was planned."
        )
    if dict(planned.probe_hashes) != dict(found.probe_hashes):
        raise SoundingError(
            "the recipe's probe holds other data than when this was planned; let `probe` return the same examples "
            "every time (seed what is drawn, use no training augmentation)."
        )
