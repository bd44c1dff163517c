"""A dry run of the operator's recipe on one checkpoint: what is wrong with it, before anything is measured."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sounding.blame import describe_error
from sounding.errors import SoundingError
from sounding.measuring.bench import Bench
from sounding.measuring.discovery import load
from sounding.measuring.supply import PassFailure, Supply
from sounding.measuring.traversal import take
from sounding.passes import Model
from sounding.passes.undisturbed import undisturbed
from sounding.probe import Probe, Split
from sounding.records import Job

_FEW = 4  # examples of each split that are tried


def rehearse(job: Job) -> list[str]:
    """Load the recipe, build the model, and take one small batch of every split; return the problems in words.

    `job` needs a checkpoint and a recipe; its tasks are ignored but for the networks that they name. Empty means
    that plugins will find what they need. Never raises for what the operator wrote.
    """
    problems: list[str] = []
    networks = dict.fromkeys(task.subject.model for task in job.tasks) or {"": None}
    try:
        with Bench(job, load()) as bench:
            for network in networks:
                problems.extend(_problems(bench, job, network))
    except SoundingError as error:
        problems.append(str(error))
    return list(dict.fromkeys(problems))


def _problems(bench: Bench, job: Job, network: str) -> Iterator[str]:
    supply = bench.supply(job.checkpoint.checkpoint_id, network)
    try:
        recipe, run = supply.get("recipe"), supply.get("run")
        probe: Probe | None = recipe.probe(run)
    except (PassFailure, SoundingError) as error:
        yield str(error)
        probe = None
    try:
        model = supply.get("model")
    except PassFailure as failure:
        yield failure.reason
        return
    if probe is None:
        return
    if "head" in model.recipe.functions:
        yield from _head_problem(supply)
    for split in probe.splits.values():
        yield from _attempt(job, f"the {split.name} split", partial(_try, model, probe, split))


def _head_problem(supply: Supply) -> Iterator[str]:
    try:
        supply.get("head")
    except PassFailure as failure:
        yield failure.reason


def _try(model: Model, probe: Any, split: Split) -> None:
    with undisturbed(model.module):
        batch = take(model, probe.unit, split, 0, min(_FEW, split.size), gradients=split.name == "train")
    if not batch.losses.isfinite().all():
        raise SoundingError(f"the loss of some of the first examples is not finite: {batch.losses.tolist()}")


def _attempt(job: Job, what: str, action: Callable[[], None]) -> Iterator[str]:
    try:
        action()
    except SoundingError as error:
        yield f"{job.recipe}: {what}: {error}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the operator's code; its failure is what is looked for
        yield f"{job.recipe}: {what}: running the model failed: {describe_error(error, job.recipe)}"
