"""Series of a run as tables: side by side over the steps, or one line each."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from sounding_cli.ask import Row
from sounding_cli.figures import figure, figures, sparkline
from sounding_cli.screen import blank_table
from sounding_cli.series import Series, as_number

_LONG = 24  # letters of a name that is broken at its dot where there is no room
_POOR = "*"  # behind a value that is not to be relied on
_WHY = {"unconverged": "not converged", "unresolved": "unresolved (too little to be certain)"}


def heading(rows: Sequence[Row]) -> str:
    """One line above the tables: which run, and over which steps."""
    steps = sorted({int(str(row["step"])) for row in rows})
    count = len({row["checkpoint_id"] for row in rows if row.get("horizon") is None})  # a horizon is a run's
    counted = f"{count} checkpoint{'s' * (count != 1)}" if count else "the run as a whole"
    span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return f"{rows[0]['run']} · store {rows[0]['store']} · {counted}, {span}"


def steps_table(series: Sequence[Series]) -> Table:
    """A line per checkpoint and a column per series, with its course in one line below."""
    table = blank_table(footer=True)
    table.add_column("step", justify="right", style="bold")
    for one in series:
        table.add_column(
            "\n".join(filter(None, (one.plugin, one.metric, one.detail, one.unit))),
            footer=Text(sparkline(one.values, 16), style="cyan"),
            justify="right",
            no_wrap=True,
        )
    lines = sorted({_line(row) for one in series for row in one.rows})
    columns = [_by_line(one) for one in series]
    for line in lines:
        table.add_row(str(line[0]), *(column.get(line, "") for column in columns))
    return table


def overview(series: Sequence[Series]) -> Table:
    """A line per series: its course, and its first and last value."""
    table = blank_table()
    places = {title: [where(one) for one in series] for title, where in (("part", _where), ("split", _split))}
    places = {title: texts for title, texts in places.items() if any(texts)}
    table.add_column("metric", style="bold", overflow="fold")
    for title in places:
        table.add_column(title, overflow="fold")
    for title in ("first", "last"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("over the steps", style="cyan", no_wrap=True)
    steps = sorted({step for one in series for step in one.steps})
    for index, one in enumerate(series):
        where = [Text(texts[index]) for texts in places.values()]
        table.add_row(Text(one.name), *where, *_ends(one), one.unit.strip("[]"), _course(one, steps))
    return table


def narrow_overview(series: Sequence[Series]) -> Table:
    """The same where there is no room for it: part, split and unit stand below the metric."""
    table = blank_table()
    table.add_column("metric", overflow="fold")
    for title in ("first", "last"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("over the steps", style="cyan", no_wrap=True)
    steps = sorted({step for one in series for step in one.steps})
    for one in series:
        name = f"{one.plugin}.\n{one.metric}" if len(one.name) > _LONG else one.name
        below = " ".join(filter(None, (_where(one), _split(one), one.unit)))
        cell = Text.assemble((name, "bold"), f"\n  {below}" if below else "")
        table.add_row(cell, *_ends(one), _course(one, steps))
    return table


def sentences(series: Series) -> Text:
    """A series of long labels: its name, and what it says, with the steps from which on it says so where it changes."""
    said = [(step, text) for step, text in zip(series.steps, texts(series.rows), strict=True)]
    changes = [each for place, each in enumerate(said) if place == 0 or said[place - 1][1] != each[1]]
    told = Text(" ".join(filter(None, (series.name, series.detail))), style="bold")
    for step, text in changes:
        since = f"from step {step}: " if len(changes) > 1 else ""
        told.append(f"\n  {since}{text}", style="not bold")
    return told


def _course(series: Series, steps: Sequence[int]) -> str:
    """The sparkline over all steps shown, so that those of several series stand below each other."""
    by_step = dict(zip(series.steps, series.values, strict=True))
    return sparkline([by_step.get(step) for step in steps])


def _where(series: Series) -> str:
    place = "" if series.index is None else f"#{series.index}"
    return " ".join(filter(None, (series.model, series.part, series.kind, series.group, place)))


def _split(series: Series) -> str:
    return series.split


def _line(row: Mapping[str, object]) -> tuple[int, str, str]:
    other = row["other_step"]
    return int(str(row["step"])), str(row["checkpoint_id"]), "" if other is None else str(other)


def _by_line(series: Series) -> dict[tuple[int, str, str], str]:
    return dict(zip(map(_line, series.rows), texts(series.rows), strict=True))


def texts(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Values with their standard errors, of the same number of decimals; labels as they are."""
    values = figures([as_number(row["value"]) for row in rows])
    errors = [as_number(row["stderr"]) for row in rows]
    found: list[str] = []
    for row, text, error in zip(rows, values, errors, strict=True):
        spread = "" if error is None else f" ± {_alike(error, text)}"
        found.append((str(row["label"] or "") if row["value"] is None else text + spread) + _flag(row))
    return found


def _alike(error: float, value: str) -> str:
    """A standard error written like its value; two digits where that would hide it."""
    decimals = len(value.partition(".")[2])
    text = figure(error) if "e" in value else f"{error:.{decimals}f}"
    return text if error == 0 or float(text) else f"{error:.1g}"


def _flag(row: Mapping[str, object]) -> str:
    return "" if row["status"] == "ok" else _POOR


def told_of_stars(rows: Iterable[Mapping[str, object]]) -> str:
    """What the stars behind values mean, and how many readings have one for which reason; "" without any."""
    counts = Counter(_WHY[str(row["status"])] for row in rows if row["status"] != "ok")
    reasons = (f"{why}: {count} reading{'s' * (count != 1)}" for why, count in sorted(counts.items()))
    return f"{_POOR} {', '.join(reasons)}" if counts else ""


def _ends(series: Series) -> tuple[str, str]:
    rows = (series.rows[0], series.rows[-1])
    first, last = (
        (str(row["label"] or "") if row["value"] is None else figure(as_number(row["value"]))) + _flag(row)
        for row in rows
    )
    return first, last
