"""Which plugins and passes there are, and which of them can be used."""

import functools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

import torch

from sounding.contract import ROOTS, Pass, Plugin, Run
from sounding.errors import SoundingError
from sounding.measuring.collecting import CORE, WITHOUT, AnyPass, AnyPlugin, Found, collect, installed
from sounding.measuring.options import resolve, suggest, type_name
from sounding.measuring.reach import out_of_reach
from sounding.passes import Opened, Other, Past, Recipe
from sounding.records import Checkpoint, Refusal

ROOT_TYPES: Mapping[str, object] = {
    "opened": Opened,
    "checkpoint": Checkpoint,
    "run": Run,
    "recipe": Recipe,
    "network": str,
    "device": torch.device,
    "other": Other,
    "past": Past,
}
TRAVERSAL_NEEDS = ("model", "recipe")  # what the traversal that fills accumulators works with


@dataclass(frozen=True)
class Loaded:
    """Usable plugins and passes by name, where each comes from, and what was refused."""

    plugins: Mapping[str, AnyPlugin]
    passes: Mapping[str, AnyPass]
    refusals: tuple[Refusal, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)  # of plugins, by name

    def transitive(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Everything needed to compute `needs`, passes and roots, sorted."""
        reached: set[str] = set()
        waiting = list(needs)
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting.extend(needs_of(self.passes[name]) if name in self.passes else ())
        return tuple(sorted(reached))


def needs_of(item: AnyPass) -> tuple[str, ...]:
    """A pass's direct needs; an accumulator also uses what the traversal works with."""
    if item.kind != "accumulator":
        return tuple(item.needs)
    return (*item.needs, *TRAVERSAL_NEEDS, *(("head",) if item.may_tap_the_head else ()))


@functools.cache
def load(diary: str = "") -> Loaded:
    """Import and check everything installed; once per process.

    What the environment variable `SOUNDING_WITHOUT` names is avoided; `diary` is that of `collect`.
    """
    found, refusals = collect(installed(), os.environ.get(WITHOUT, "").split(","), diary)
    return assemble(found, refusals)


def assemble(found: Iterable[Found], refusals: Iterable[Refusal] = ()) -> Loaded:
    """Check what was found; whatever contradicts itself or others is refused, the rest stays usable."""
    refused = list(refusals)
    found = list(found)
    passes = _unique([each for each in found if isinstance(each.item, Pass)], refused)
    usable = _usable_passes(passes, refused)
    plugins: dict[str, AnyPlugin] = {}
    origins: dict[str, str] = {}
    for name, each in _unique([each for each in found if isinstance(each.item, Plugin)], refused).items():
        reason = _fault(each.item, usable, {refusal.name: refusal.reason for refusal in refused})
        if reason:
            refused.append(Refusal(name, each.origin, reason))
        elif isinstance(each.item, Plugin):
            plugins[name], origins[name] = each.item, each.origin
    return Loaded(plugins, usable, tuple(refused), origins)


def _unique(found: Iterable[Found], refused: list[Refusal]) -> dict[str, Found]:
    """Names used once; of passes, the core's own keep a name that another distribution also claims."""
    by_name: dict[str, list[Found]] = defaultdict(list)
    for each in found:
        by_name[each.item.name].append(each)
    kept: dict[str, Found] = {}
    for name, same in by_name.items():
        own = [each for each in same if isinstance(each.item, Pass) and each.origin.startswith(f"{CORE}: ")]
        losers = [each for each in same if each not in own] if own else same
        if len(same) == 1:
            kept[name] = same[0]
            continue
        if len(own) == 1:
            kept[name] = own[0]
        origins = " and ".join(sorted(each.origin for each in same))
        kind = "pass" if isinstance(same[0].item, Pass) else "plugin"
        reason = f"the {kind} name `{name}` is used by {origins}; rename one of them"
        refused += [Refusal(name, each.origin, reason) for each in losers]
    return kept


def _usable_passes(found: Mapping[str, Found], refused: list[Refusal]) -> dict[str, AnyPass]:
    passes = {name: each.item for name, each in found.items() if isinstance(each.item, Pass)}
    reasons = _cycles(passes)
    while True:
        usable = {name: item for name, item in passes.items() if name not in reasons}
        wrong = {name: fault for name, item in usable.items() if (fault := _fault(item, usable, reasons))}
        if not wrong:
            break
        reasons.update(wrong)
    refused += [Refusal(name, found[name].origin, reason) for name, reason in reasons.items()]
    return usable


def _cycles(passes: Mapping[str, AnyPass]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    while True:
        graph = {name: set(needs_of(item)) for name, item in passes.items() if name not in reasons}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            way = " → ".join(f"`{name}`" for name in reversed(error.args[1]))
            reasons.update(dict.fromkeys(error.args[1], f"passes need each other in a circle: {way}"))
        else:
            return reasons


def _fault(item: AnyPlugin | AnyPass, passes: Mapping[str, AnyPass], refused: Mapping[str, str]) -> str | None:
    """What is wrong with an item's declaration, given the usable passes; None when nothing is."""
    if isinstance(item, Pass) and (problem := _pass_fault(item, passes)):
        return problem
    for need, annotation in item.needs.items():
        if need in refused and need not in passes:
            return f"needs the pass `{need}`, which was refused: {refused[need]}"
        if need not in passes and need not in ROOT_TYPES:
            hint = suggest(need, [*passes, *ROOTS])
            return f"needs `{need}`, which is no pass{hint} Passes: {', '.join(sorted(passes))}"
        expected = ROOT_TYPES[need] if need in ROOT_TYPES else passes[need].returns
        if annotation != expected:
            given, right = type_name(annotation), type_name(expected)
            return f"annotates `{need}` as {given}, but that pass returns {right}; write `{need}: {right}`"
    try:
        resolve(item.name, item.options, {})
    except SoundingError as error:
        return str(error)
    return out_of_reach(item, Loaded({}, passes).transitive) if isinstance(item, Plugin) else None


def _pass_fault(item: AnyPass, passes: Mapping[str, AnyPass]) -> str | None:
    if item.name in ROOTS:
        return f"`{item.name}` is supplied by the engine itself; give the pass another name"
    if item.returns is None:
        return f"`result` of the accumulator `{item.name}` has no return annotation, which names what users receive"
    reached = Loaded({}, passes).transitive(item.needs) if item.kind == "accumulator" else ()
    if "other" in reached:
        return "an accumulator cannot need `other`: the probe is gone through for each checkpoint by itself"
    fed = [name for name in reached if name in passes and passes[name].kind == "accumulator"]
    return f"an accumulator cannot need another one's result (`{fed[0]}`): all fill in one traversal" if fed else None
