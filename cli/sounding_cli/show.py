"""`show`: the readings of one run over its steps."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sounding_cli.place import place_of
from sounding_cli.readings import Wanted, readings
from sounding_cli.screen import Json, console, fits, note, print_json, say
from sounding_cli.series import Series, collected, of_whole
from sounding_cli.shown import heading, narrow_overview, overview, sentences, steps_table, told_of_stars

_COLUMNS = 8  # series that stand side by side; more are listed below each other
_LINES = 40  # series listed without having been asked for


def show(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's name, or STORE:RUN.")],
    metric: Annotated[
        list[str] | None, typer.Argument(metavar="[METRIC]…", help="Such as loss or sharpness.lambda_max; * matches.")
    ] = None,
    part: Annotated[str | None, typer.Option("--part", help="Of these parts of the network; * matches.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="On this split: train or heldout.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the series as well.")] = False,
    as_json: Json = False,
) -> None:
    """Show what was measured in a run, over its steps."""
    rows = readings(place_of(ctx).results, Wanted(run, tuple(metric or ()), part, split))
    if as_json:
        print_json(rows)
        return
    series = collected(rows)
    chosen = series if metric or part else of_whole(series)[:_LINES]
    out = console()
    say(heading(rows), style="bold")
    in_table = [one for one in chosen if not one.in_sentences]
    if in_table:
        table = steps_table(in_table) if metric and len(in_table) <= _COLUMNS else overview(in_table)
        out.print(first_fitting(out, (table, overview(in_table), narrow_overview(in_table))))
    for one in chosen:
        if one.in_sentences:
            out.print(sentences(one))
    _print_notes(series, chosen)
    if plot:
        _print_plot(in_table)


def first_fitting(out: Console, tables: Sequence[Table]) -> Table:
    """The first table that the screen is wide enough for, else the last."""
    return next((each for each in tables if fits(out, each)), tables[-1])


def _print_notes(series: list[Series], chosen: list[Series]) -> None:
    if told := told_of_stars(row for one in chosen for row in one.rows):
        note(told)
    if len(chosen) < len(series):
        note(
            f"{len(series) - len(chosen)} series more, most of single parts: name a METRIC, or --part '*', to see them"
        )


def _print_plot(chosen: list[Series]) -> None:
    from sounding_cli.plot import plotted

    out = console()
    names = dict.fromkeys(series.name for series in chosen)
    for name in names:
        drawn = plotted(
            [series for series in chosen if series.name == name], min(out.width, 100), colour=out.is_terminal
        )
        out.print(Text.from_ansi(drawn))
