"""Which plugins and passes there are, which of them can be used, and what the parent process is told of them."""

import ast
import functools
import hashlib
import inspect
import os
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch

from sounding.contract import ROOTS, Pass, Plugin, Run
from sounding.errors import SoundingError
from sounding.measuring.collecting import CORE, WITHOUT, AnyPass, AnyPlugin, Found, collect, installed
from sounding.measuring.options import options_hash, resolve, sheets, suggest, type_name
from sounding.measuring.reach import out_of_reach
from sounding.passes import Opened, Other, Past, Recipe
from sounding.records import Catalogue, Checkpoint, PassSheet, PluginSheet, Refusal

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
Settings = Mapping[str, Mapping[str, object]]


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


def describe(plugin_settings: Settings, pass_settings: Settings, diary: str = "") -> Catalogue:
    """Sheets of all usable plugins under these settings. Imports foreign code: call it in a child with a deadline.

    When the child dies or hangs, the file `diary` names the module it was importing, which can be avoided then.
    """
    return describe_loaded(load(diary), plugin_settings, pass_settings)


def describe_loaded(loaded: Loaded, plugin_settings: Settings, pass_settings: Settings) -> Catalogue:
    """As `describe`, of plugins already loaded."""
    refusals = list(loaded.refusals)
    passes: dict[str, PassSheet | str] = {
        name: _pass_sheet(item, pass_settings.get(name, {})) for name, item in loaded.passes.items()
    }
    refusals += [Refusal(name, "configuration", text) for name, text in passes.items() if isinstance(text, str)]
    refused = {refusal.name for refusal in refusals}
    for kind, settings, known in (
        ("plugin", plugin_settings, loaded.plugins),
        ("pass", pass_settings, loaded.passes),
    ):
        for name in sorted(set(settings) - set(known) - refused):
            reason = f"the configuration sets options of {kind} `{name}`, which is not installed{suggest(name, known)}"
            refusals.append(Refusal(name, "configuration", reason))
    plugins: dict[str, PluginSheet] = {}
    for name, item in loaded.plugins.items():
        try:
            plugins[name] = _plugin_sheet(loaded, item, plugin_settings.get(name, {}), passes)
        except SoundingError as error:
            refusals.append(Refusal(name, loaded.origins[name], str(error)))
    return Catalogue(plugins, tuple(refusals))


def code_digest(function: Callable[..., object]) -> str:
    """Digest of a function's parameters and body, docstring and decorators left out; empty without source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, SyntaxError, TypeError):
        return ""
    if not isinstance(tree, ast.FunctionDef):
        return ""
    body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    text = "\n".join(ast.dump(node) for node in (tree.args, *body))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


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


def _pass_sheet(item: AnyPass, settings: Mapping[str, object]) -> PassSheet | str:
    try:
        return PassSheet(
            item.name, item.version, options_hash(item.options, resolve(f"pass {item.name}", item.options, settings))
        )
    except SoundingError as error:
        return str(error)


def _plugin_sheet(
    loaded: Loaded, item: AnyPlugin, settings: Mapping[str, object], passes: Mapping[str, PassSheet | str]
) -> PluginSheet:
    values = resolve(f"plugin {item.name}", item.options, settings)
    reached = loaded.transitive(item.needs)
    used: list[PassSheet] = []
    for name in reached:
        sheet = passes.get(name)
        if isinstance(sheet, str):
            raise SoundingError(f"needs the pass `{name}`, whose settings are wrong: {sheet}")
        if sheet is not None:
            used.append(sheet)
    summary: Any = inspect.getdoc(item.function) or ""
    return PluginSheet(
        name=item.name,
        version=item.version,
        over=item.over,
        against=item.against,
        cost=item.cost,
        summary=summary.partition("\n")[0],
        origin=loaded.origins[item.name],
        metrics=item.metrics,
        options=sheets(item.options, values),
        options_hash=options_hash(item.options, values),
        passes=tuple(used),
        needs_recipe="recipe" in reached,
        code_digest=code_digest(item.function),
    )
