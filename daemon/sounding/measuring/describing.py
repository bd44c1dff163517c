"""What the parent process, which imports no plugin, is told of plugins and passes."""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sounding.errors import SoundingError
from sounding.measuring.collecting import AnyPass, AnyPlugin
from sounding.measuring.discovery import Loaded, load
from sounding.measuring.options import options_hash, resolve, sheets, suggest
from sounding.records import Catalogue, PassSheet, PluginSheet, Refusal

Settings: TypeAlias = Mapping[str, Mapping[str, object]]


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
