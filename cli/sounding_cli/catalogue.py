"""`plugins` and `metrics`: what can be measured, and what has been."""

import json
from collections.abc import Sequence

import typer
from rich.text import Text

from sounding.records import Catalogue, OptionSheet, PluginSheet
from sounding_cli.ask import Row, ask
from sounding_cli.place import Place, place_of
from sounding_cli.screen import Column, Json, console, fits, note, print_json, print_rows, table_of

_PLUGINS = (
    Column("name", "plugin", style="bold"),
    Column("version", align="right"),
    Column("over"),
    Column("cost"),
    Column("recipe"),
    Column("summary", "what it does, and its options", gives_way=True),
)
_METRICS = (
    Column("name", "metric", style="bold"),
    Column("unit"),
    Column("readings", align="right"),
    Column("runs", align="right"),
    Column("last_step", "to step", align="right"),
    Column("meaning", gives_way=True),
)
# Where there is no room for a column of words they stand below the name.
_PLUGINS_NARROW = (Column("described", "plugin", gives_way=True), Column("over"), Column("cost"), Column("recipe"))
_METRICS_NARROW = (Column("described", "metric", gives_way=True), Column("unit"), Column("readings", align="right"))
_WORDS = 40  # columns that words need
_COUNTS = """
    SELECT plugin, metric, any_value(unit) AS unit, count(*) AS readings, count(DISTINCT (store, run)) AS runs,
        max(step) AS last_step
    FROM readings GROUP BY ALL ORDER BY plugin, metric"""


def plugins(ctx: typer.Context, as_json: Json = False) -> None:
    """List the plugins that can be used, with their options in force, and those refused."""
    found = _catalogue(place_of(ctx))
    sheets = sorted(found.plugins.values(), key=lambda sheet: sheet.name)
    if as_json:
        refused = [
            {"name": refusal.name, "origin": refusal.origin, "reason": refusal.reason} for refusal in found.refusals
        ]
        print_json({"plugins": [_plain(sheet) for sheet in sheets], "refused": refused})
        return
    rows = [_row(sheet) for sheet in sheets]
    console().print(table_of(rows, _fitting(rows, _PLUGINS, _PLUGINS_NARROW)))
    for refusal in found.refusals:
        text = Text.assemble(("✗ ", "red"), (refusal.name, "bold"), f" ({refusal.origin}): {refusal.reason}")
        console().print(text, soft_wrap=True)


def metrics(ctx: typer.Context, as_json: Json = False) -> None:
    """List the metrics: unit, meaning, and how many readings there are of each."""
    place = place_of(ctx)
    declared = _declared(_catalogue(place))
    has_config = place.settings_if_any() is not None
    counted = {(row["plugin"], row["metric"]): row for row in (ask(place.results, _COUNTS) if has_config else [])}
    rows = [_metric_row(plugin, metric, declared, counted) for plugin, metric in sorted({*declared, *counted}, key=str)]
    rows = [{**row, "described": f"{row['name']}\n{row['meaning']}\n"} for row in rows] if not as_json else rows
    print_rows(
        rows,
        _fitting(rows, _METRICS, _METRICS_NARROW),
        as_json=as_json,
        empty="no plugin declares a metric; `sounding plugins` says why",
    )
    if not as_json and not counted:
        note("no readings yet: `sounding watch` measures")


def _fitting(rows: Sequence[Row], wide: Sequence[Column], narrow: Sequence[Column]) -> Sequence[Column]:
    """The wide columns, the last of which is words, if that leaves room for them."""
    return wide if fits(console(), table_of(rows, wide[:-1]), beside=_WORDS) else narrow


def _catalogue(place: Place) -> Catalogue:
    from sounding.running.catalogue import catalogue

    return catalogue(place.settings_if_any())


def _declared(found: Catalogue) -> dict[tuple[object, object], Row]:
    return {
        (sheet.name, metric.name): {
            "unit": metric.unit,
            "meaning": metric.meaning,
            "source": metric.source,
            "kind": metric.kind,
        }
        for sheet in found.plugins.values()
        for metric in sheet.metrics
    }


def _metric_row(
    plugin: object,
    metric: object,
    declared: dict[tuple[object, object], Row],
    counted: dict[tuple[object, object], Row],
) -> Row:
    nothing: Row = {"unit": "", "meaning": "", "source": "", "kind": "scalar"}
    none: Row = {"readings": 0, "runs": 0, "last_step": None}
    row: Row = {"name": f"{plugin}.{metric}", "plugin": plugin, "metric": metric}
    return {**row, **nothing, **none, **counted.get((plugin, metric), {}), **declared.get((plugin, metric), {})}


def _row(sheet: PluginSheet) -> Row:
    return {
        "name": sheet.name,
        "version": sheet.version,
        "over": sheet.over if sheet.against is None else f"{sheet.over} ({sheet.against})",
        "cost": sheet.cost,
        "recipe": "needed" if sheet.needs_recipe else "",
        "summary": (told := "\n".join((sheet.summary, *_options(sheet.options)))),
        "described": f"{sheet.name}\n{told}\n",
    }


def _options(options: Sequence[OptionSheet]) -> list[str]:
    """The options as they would stand in sounding.toml."""
    return [f"  {option.name} = {json.dumps(option.value, default=str)}" for option in options]


def _plain(sheet: PluginSheet) -> Row:
    options = [
        {"name": option.name, "type": option.type, "default": option.default, "value": option.value}
        for option in sheet.options
    ]
    metrics = [
        {
            "name": metric.name,
            "unit": metric.unit,
            "meaning": metric.meaning,
            "source": metric.source,
            "kind": metric.kind,
        }
        for metric in sheet.metrics
    ]
    keys = ("name", "version", "over", "against", "cost", "summary", "origin", "needs_recipe")
    return {**{key: getattr(sheet, key) for key in keys}, "options": options, "metrics": metrics}
