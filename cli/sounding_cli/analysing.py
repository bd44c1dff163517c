"""`analyse`: one checkpoint, or two compared, measured here and now."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from sounding.errors import SoundingError
from sounding_cli.screen import Json, blank_table, console, fits, note, print_json, say
from sounding_cli.series import is_sentence, kinds
from sounding_cli.shown import texts, told_of_stars

_PLACE = ("part", "kind", "split", "group", "index")  # what tells readings of one metric apart
_ABREAST = 6  # metrics of one table; more are hard to read even where the screen is wide


def analyse(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint: a file, or a directory of one.")],
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Only this plugin; may be given again.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="FILE", help="Architecture, probe data and loss, for more than weights."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="OTHER", help="Compare with this checkpoint, of any run, by plugins over pairs."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="PLUGIN.KEY=VALUE", help="An option of a plugin; may be given again."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure one checkpoint now, or compare it with another, without a daemon or a configuration; nothing is kept."""
    from sounding.asking.analyse import analyse as measure

    options = _options(option or [])
    for each in (path, *([] if against is None else [against])):
        if not each.exists():
            raise SoundingError(f"{each}: no such file or directory; expected a checkpoint.")
    with console().status("measuring", spinner="dots"):
        found = measure(path, plugins=tuple(plugin or ()), options=options, recipe=recipe, against=against)
    if as_json:
        print_json(found.readings)
        return
    _print(found.readings)
    if told := told_of_stars(found.readings):
        note(told)
    for text in found.notes:
        note(text)


def _print(readings: Sequence[Mapping[str, Any]]) -> None:
    """Tables of each plugin: a line per part and split, a column per metric."""
    for name in dict.fromkeys(reading["plugin"] for reading in readings):
        found = [reading for reading in readings if reading["plugin"] == name]
        found = [{**reading, "kind": kind} for reading, kind in zip(found, kinds(found), strict=True)]
        own = [reading for reading in found if not is_sentence(reading)]
        left = list(dict.fromkeys(reading["metric"] for reading in own))
        while left:
            table, count = _widest(name, own, left[:_ABREAST])
            console().print(table)
            say("")
            left = left[count:]
        for reading in found:
            if is_sentence(reading):
                place = (str(reading[key]) for key in _PLACE if reading.get(key) not in (None, ""))
                say(" ".join((f"{name}.{reading['metric']}", *place)), style="bold")
                say(f"  {reading['label']}", "")
    if not readings:
        say("no readings")


def _widest(plugin: str, readings: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> tuple[Table, int]:
    """A table of as many of these metrics as fit on the screen beside the names of the parts, and how many."""
    out = console()
    for count in range(len(metrics), 1, -1):
        shown = metrics[:count]
        table = _pivoted(plugin, [reading for reading in readings if reading["metric"] in shown])
        if fits(out, table):
            return table, count
    return _pivoted(plugin, [reading for reading in readings if reading["metric"] == metrics[0]]), 1


def _pivoted(plugin: str, readings: Sequence[Mapping[str, Any]]) -> Table:
    table = blank_table()
    places = [tuple("" if value is None else str(value) for value in map(each.get, _PLACE)) for each in readings]
    used = [at for at in range(len(_PLACE)) if any(place[at] for place in places)]
    placed = [tuple(place[at] for at in used) for place in places]
    lines = list(dict.fromkeys(placed))
    keys = [_PLACE[at] for at in used]
    columns: list[dict[tuple[str, ...], str]] = []
    for place, key in enumerate(keys or ("",)):
        # A part's name gives way where a single metric is too wide; numbers and splits are short and never do.
        table.add_column(f"{plugin}\n{key}" if place == 0 else f"\n{key}", overflow="fold", no_wrap=key != "part")
    for metric, unit in dict.fromkeys((reading["metric"], reading["unit"]) for reading in readings):
        found = [reading for reading in readings if reading["metric"] == metric]
        where = [place for place, reading in zip(placed, readings, strict=True) if reading["metric"] == metric]
        columns.append(dict(zip(where, texts(found), strict=True)))
        table.add_column(f"{metric}\n[{unit}]", justify="right", no_wrap=True)
    for line in lines:
        cells = [Text(text or ("whole" if key == "part" else "")) for key, text in zip(keys, line, strict=True)]
        table.add_row(*(cells or [Text("whole")]), *(column.get(line, "") for column in columns))
    return table


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
