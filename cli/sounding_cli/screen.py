"""What a command prints: tables for people, JSON for programs, and plain lines where nobody watches."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, TextIO, TypeAlias

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sounding_cli.figures import figures

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_UNBOUNDED = 10_000  # columns; where there is no terminal, nothing is cut off or wrapped


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a listing: the key of its values, and its heading, with a unit in a line of its own."""

    key: str
    title: str = ""
    unit: str = ""
    align: Literal["left", "right"] = "left"
    style: str = ""
    gives_way: bool = False  # wraps when the terminal is narrow; other columns keep their width
    exact: bool = False  # settings of a person, such as a learning rate: as they were written, not to four digits

    @property
    def heading(self) -> str:
        """Title and unit."""
        return "\n".join(filter(None, (self.title or self.key, self.unit)))


def console(*, stream: TextIO | None = None) -> Console:
    """A console on standard output unless said otherwise; without a terminal it is as wide as what is printed."""
    target: TextIO = sys.stdout if stream is None else stream
    bounded = target.isatty() or "COLUMNS" in os.environ
    return Console(
        file=target,
        width=None if bounded else _UNBOUNDED,
        markup=False,  # a run may be named "[bold]"
        highlight=False,
        emoji=False,
    )


def fits(out: Console, table: Table, beside: int = 0) -> bool:
    """Whether a table is no wider than the screen less `beside` columns, with nothing cut off or wrapped."""
    unbounded = out.options.update(max_width=_UNBOUNDED)  # otherwise everything is told to be as wide as the screen
    return out.measure(table, options=unbounded).maximum <= out.width - beside


def say(*texts: str, style: str = "") -> None:
    """Print lines for a person, on standard output."""
    for text in texts:
        console().print(Text(text, style=style), soft_wrap=True)


def note(text: str) -> None:
    """Print a line for a person beside the output, on standard error."""
    console(stream=sys.stderr).print(Text(text, style="dim"), soft_wrap=True)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    typer.echo(json_text(value))


def json_text(value: object) -> str:
    """A value as JSON, times in ISO 8601; a number that JSON cannot say (NaN, infinity) becomes null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def print_rows(
    rows: Sequence[Mapping[str, object]], columns: Sequence[Column], *, as_json: bool, empty: str, title: str = ""
) -> None:
    """Print a listing: as JSON with every key of every row, or as a table of the columns given."""
    if as_json:
        print_json([dict(row) for row in rows])
    elif not rows:
        say(empty)
    else:
        if title:
            say(title)
        console().print(table_of(rows, columns))


def table_of(rows: Sequence[Mapping[str, object]], columns: Sequence[Column]) -> Table:
    """A table with one line per row; columns of numbers share their number of decimals and are aligned."""
    table = blank_table()
    texts: list[list[str]] = []
    for column in columns:
        values = [row.get(column.key) for row in rows]
        numeric = _is_numeric(values)
        texts.append([_text(value) for value in values] if column.exact else cells(values))
        table.add_column(
            column.heading,
            justify="right" if numeric or column.align == "right" else "left",
            style=column.style or None,
            overflow="fold",
            no_wrap=not column.gives_way,
        )
    for line in zip(*texts, strict=True):
        table.add_row(*(Text(text) for text in line))
    return table


def blank_table(*, footer: bool = False) -> Table:
    """A table in the one style of all commands: a rule below the heading, nothing else drawn."""
    return Table(
        box=box.SIMPLE_HEAD if not footer else box.SIMPLE,
        show_footer=footer,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        footer_style="",
        padding=(0, 1),
    )


def cells(values: Sequence[object]) -> list[str]:
    """The texts of one column."""
    if _is_numeric(values):
        return figures([None if value is None else float(str(value)) for value in values])
    return [_text(value) for value in values]


def _is_numeric(values: Sequence[object]) -> bool:
    found = [value for value in values if value is not None]
    return bool(found) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list):
        return ", ".join(_text(part) for part in value)
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value)
