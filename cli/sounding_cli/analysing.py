"""`analyse`: one checkpoint, measured here and now."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sounding.records import SoundingError
from sounding_cli.screen import Column, Json, console, note, print_json, say, table_of

_COLUMNS = (
    Column("metric", style="bold"),
    Column("part"),
    Column("split"),
    Column("value", align="right"),
    Column("stderr", "±", align="right"),
    Column("unit"),
)


def analyse(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint: a file, or a directory of one.")],
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Only this plugin; may be given again.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="FILE", help="Architecture, probe data and loss, for more than weights."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="PLUGIN.KEY=VALUE", help="An option of a plugin; may be given again."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure one checkpoint now, without a daemon or a configuration; nothing is kept."""
    from sounding.analyse import analyse as measure

    options = _options(option or [])
    if not path.exists():
        raise SoundingError(f"{path}: no such file or directory; expected a checkpoint.")
    with console().status("measuring", spinner="dots"):
        found = measure(path, plugins=tuple(plugin or ()), options=options, recipe=recipe)
    if as_json:
        print_json(found.readings)
        return
    _print(found.readings)
    for text in found.notes:
        note(text)


def _print(readings: Sequence[Mapping[str, Any]]) -> None:
    plugins = dict.fromkeys(reading["plugin"] for reading in readings)
    for name in plugins:
        rows = [
            {**reading, "value": reading["label"] if reading["value"] is None else reading["value"]}
            for reading in readings
            if reading["plugin"] == name
        ]
        shown = [column for column in _COLUMNS if any(row.get(column.key) not in (None, "") for row in rows)]
        say(str(name), style="bold")
        console().print(table_of(rows, shown))
        say("")
    if not readings:
        say("no readings")


def _options(texts: Sequence[str]) -> dict[str, dict[str, object]]:
    """`sharpness.top_k=10` as {"sharpness": {"top_k": 10}}; a value that is not JSON is a text."""
    found: dict[str, dict[str, object]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        plugin, dot, key = name.partition(".")
        if not (equals and dot and plugin and key):
            raise typer.BadParameter(f"{text!r}: expected PLUGIN.KEY=VALUE, such as weight_norm.matrices_only=false")
        found.setdefault(plugin, {})[key] = _value(value)
    return found


def _value(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value
