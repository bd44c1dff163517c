"""Trying everything out before a daemon runs: stores, patterns, plugins, recipe — each problem with what to write."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from sounding.asking.check_logs import check_logs
from sounding.asking.problem import Problem
from sounding.config import Settings, Store
from sounding.deciding.plan import Wish
from sounding.deciding.policy import wishes_of
from sounding.errors import SoundingError
from sounding.keeping.ledger import Ledger
from sounding.keeping.results import ResultsDirectory
from sounding.records import Catalogue, Job, Key, State, Subject, Task
from sounding.running import catalogue as catalogues
from sounding.running.dispatch import Child, Limits, call_and_wait
from sounding.running.service import Examiner, look_at
from sounding.seeing.lookout import Lookout, Seen

_SHOWN = 3  # names shown as examples
_DEPTH = 3  # directories below a store that are searched for examples


def check(settings: Settings) -> list[Problem]:
    """Try the whole configuration on what is there now; nothing is measured and nothing is written."""
    child = Child("check", threads=settings.threads)
    try:
        return list(_check(settings, child))
    finally:
        child.stop()


def _check(settings: Settings, child: Child) -> Iterator[Problem]:
    yield Problem("ok", str(settings.source), f"read; results are kept in {settings.results}")
    yield from _results(settings.results)
    if not settings.stores:
        advice = 'add [[stores]] with a path and a pattern such as "{run}/ckpt_{step}.pt"; `sounding init` proposes one'
        yield Problem("error", str(settings.source), "no store is named, so there is nothing to watch", advice)
        return
    try:
        catalogue = catalogues.describe(child, settings)
    except SoundingError as error:
        yield Problem("error", "plugins", f"cannot be discovered: {error}")
        return
    yield from _plugins(settings, catalogue)
    lookout = Lookout(settings, Ledger(ResultsDirectory(settings.results)), Examiner(child))
    seen = look_at(lookout)
    for store in settings.stores:
        yield from _network(store, lookout.mounts.network.get(store.name, ""))
        here = [each for each in seen.values() if each.sighting.store == store.name]
        yield from _store(store, here, lookout.problems.get(store.name, ""))
        yield from check_logs(store, here, child)
        yield from _recipe(settings, store, here, wishes_of(catalogue, settings), child)


def _results(path: Path) -> Iterator[Problem]:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        yield Problem("error", str(path), "cannot be written", "name another place under [results] path")


def _plugins(settings: Settings, catalogue: Catalogue) -> Iterator[Problem]:
    for refusal in catalogue.refusals:
        yield Problem("error", f"plugin {refusal.name}", refusal.reason, "all other plugins run")
    refused = {refusal.name for refusal in catalogue.refusals}
    for name in sorted(settings.plugins.keys() - catalogue.plugins.keys() - refused):
        known = ", ".join(sorted(catalogue.plugins))
        yield Problem("error", f"[plugins.{name}]", "there is no plugin of this name", f"plugins are {known}")
    yield Problem("ok", "plugins", f"{len(catalogue.plugins)} usable: {', '.join(sorted(catalogue.plugins))}")


def _store(store: Store, here: list[Seen], problem: str) -> Iterator[Problem]:
    where = f"store {store.name}"
    if not os.path.lexists(store.path):
        yield Problem("error", where, f"{store.path} is no directory", "correct its `path`, or create it")
        return
    if problem:
        advice = "mount it, or give this user the right to read it; everything else is watched meanwhile"
        yield Problem("error", where, problem, advice)
    if problem and not here:
        return
    if not here:
        patterns = " or ".join(repr(pattern.text) for pattern in store.patterns)
        found = _examples(store.path)
        advice = f"files there are {', '.join(found)}" if found else "nothing is there yet; it will be watched"
        severity: Literal["warning", "error"] = "error" if found else "warning"
        yield Problem(severity, where, f"nothing under {store.path} matches {patterns}", advice)
        return
    complete = [seen for seen in here if seen.checkpoint is not None]
    runs = {seen.sighting.run for seen in here}
    yield Problem("ok", where, f"{len(complete)} complete checkpoints of {len(here)} sighted, in {len(runs)} runs")
    for seen in here:
        if seen.verdict.state is State.BROKEN:
            yield Problem("warning", seen.sighting.path, f"broken: {seen.verdict.reason}", "it will not be measured")
    yield from _networks(store, complete)
    yield from _contents(store, complete)
    yield from _attribute_problems(complete)


def _network(store: Store, kind: str) -> Iterator[Problem]:
    if kind:
        copied = "read where they lie" if store.hold is False else "copied before they are read"
        what = f"on a network file system ({kind}): scanned on a timer, without file events; checkpoints are {copied}"
        yield Problem("ok", f"store {store.name}", what)


def _networks(store: Store, complete: list[Seen]) -> Iterator[Problem]:
    found = {name for seen in complete if seen.examination is not None for name in seen.examination.models}
    if len(found) > 1 and not store.models:
        lines = "; ".join(f'{name.split(".")[0] or "main"} = "{name}"' for name in sorted(found))
        what = f"checkpoints hold several networks: {', '.join(sorted(found))}; only the first is measured"
        yield Problem("warning", f"store {store.name}", what, f"say which under [stores.models]: {lines}")
    for model, key in store.models.items() if found else ():
        if key not in found:
            what = f"no checkpoint holds a network {key!r}"
            yield Problem("error", f"store {store.name}: models.{model}", what, f"there are {', '.join(sorted(found))}")


def _contents(store: Store, complete: list[Seen]) -> Iterator[Problem]:
    """What was done to the names of weights, and which of them are not read."""
    found = [seen.examination for seen in complete if seen.examination is not None]
    unwrapped = dict.fromkeys(word for examination in found for word in examination.unwrapped)
    if unwrapped:
        yield Problem("ok", f"store {store.name}", f"weights: {', '.join(unwrapped)}")
    for left in dict.fromkeys(word for examination in found for word in examination.left_out):
        yield Problem("warning", f"store {store.name}", left, "readings leave it out, and say so under its name")


def _attribute_problems(complete: list[Seen]) -> Iterator[Problem]:
    told: dict[str, str] = {}
    for seen in complete:
        for problem in seen.examination.problems if seen.examination is not None else ():
            told.setdefault(problem, seen.sighting.path)
    for problem, path in told.items():
        yield Problem("warning", path, problem, "correct the store's `attributes`")


def _recipe(
    settings: Settings, store: Store, here: list[Seen], wishes: tuple[Wish, ...], child: Child
) -> Iterator[Problem]:
    needing = sorted(wish.sheet.name for wish in wishes if wish.sheet.needs_recipe)
    if store.recipe is None:
        if needing:
            what = f"no recipe: {', '.join(needing)} will not run, plugins over the weights alone will"
            yield Problem("warning", f"store {store.name}", what, 'write one and name it: recipe = "recipe.py"')
        return
    complete = [seen for seen in here if seen.checkpoint is not None]
    if not complete:
        yield Problem("warning", str(store.recipe), "not tried: there is no complete checkpoint yet")
        return
    newest = max(complete, key=lambda seen: max(file.mtime_ns for file in seen.sighting.stamp))
    limits = Limits(settings.daemon.deadline_seconds, settings.daemon.memory_limit_mb << 20)
    try:
        problems: list[str] = call_and_wait(
            child, "sounding.measuring.rehearsal:rehearse", (_job(store, newest),), limits
        )
    except SoundingError as error:
        problems = [f"trying it ended badly: {error}"]
    for problem in problems:
        advice = "plugins over the weights alone run all the same"
        yield Problem("error", str(store.recipe), problem.removeprefix(f"{store.recipe}: "), advice)
    if not problems:
        yield Problem("ok", str(store.recipe), f"works on {newest.sighting.path}")


def _job(store: Store, seen: Seen) -> Job:
    """A job for the rehearsal, which looks only at the checkpoint, the recipe and the networks named."""
    assert seen.checkpoint is not None
    checkpoint, examination = seen.checkpoint, seen.examination
    attributes: Mapping[str, int | float | str] = {
        a.key: a.text if a.number is None else a.number for a in (examination.attributes if examination else ())
    }
    tasks = []
    for model in store.models or ("",):
        subject = Subject("checkpoint", store.name, checkpoint.run, checkpoint.step, checkpoint.checkpoint_id, model)
        tasks.append(Task(Key("", 0, "", "", subject.identity), subject, {}))
    return Job(0, checkpoint, tuple(tasks), attributes=attributes, recipe=str(store.recipe), models=store.models)


def _examples(path: Path) -> list[str]:
    """A few files below a store, to compare the pattern with."""
    found: list[str] = []
    for directory, below, files in os.walk(path):
        depth = len(Path(directory).relative_to(path).parts)
        below[:] = sorted(below) if depth < _DEPTH else []
        found += [str((Path(directory) / name).relative_to(path)) for name in sorted(files)]
        if len(found) >= _SHOWN:
            break
    return found[:_SHOWN]
