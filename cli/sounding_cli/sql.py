"""`query`: SQL from a person, through the read-only door."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TextIO, TypeAlias

import typer

from sounding_cli.place import place_of
from sounding_cli.screen import Column, Json, console, json_text, note, table_of

Format: TypeAlias = Literal["table", "json", "csv", "parquet"]
Rows: TypeAlias = list[tuple[object, ...]]

_SHOWN = 200  # rows of a table on a screen; more would scroll away


def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT, or - to read it from standard input.")],
    form: Annotated[Format, typer.Option("--format", help="How the rows are written.")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Ask the results in SQL while the daemon writes; nothing can be changed.

    Views: checkpoints, runs, readings, readings_all, curves, outcomes, attributes, settings.
    """
    from sounding.asking.readonly import run_guarded

    chosen: Format = "json" if as_json else form
    if chosen == "parquet" and output is None:
        raise typer.BadParameter("parquet goes to a file: name it with --output")
    answer = run_guarded(place_of(ctx).results, sys.stdin.read() if sql == "-" else sql)
    names = _distinct(answer.columns)
    if chosen == "parquet":
        _write_parquet(names, answer.types, answer.rows, Path(str(output)))
        return
    with _destination(output) as stream:
        _write(chosen, names, answer.rows, stream)


def _write(form: Format, names: list[str], rows: Rows, stream: TextIO) -> None:
    dicts = [dict(zip(names, row, strict=True)) for row in rows]
    if form == "json":
        stream.write(json_text(dicts) + "\n")
    elif form == "csv":
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
    else:
        _write_table(names, dicts, stream)


def _write_table(names: list[str], dicts: list[dict[str, object]], stream: TextIO) -> None:
    bounded = stream is sys.stdout and stream.isatty()
    shown = dicts[:_SHOWN] if bounded else dicts
    console(stream=stream).print(table_of(shown, [Column(name, gives_way=True) for name in names]))
    if not dicts:
        note("no rows")
    if len(shown) < len(dicts):
        note(f"{len(dicts) - len(shown)} more rows; --format csv or json gives all, LIMIT fewer")


def _write_parquet(names: list[str], types: Sequence[str], rows: Rows, output: Path) -> None:
    """Columns keep their types even where they are empty; types beyond the plain ones are told by their values."""
    import pyarrow
    import pyarrow.parquet

    plain = {
        "BIGINT": pyarrow.int64(),
        "INTEGER": pyarrow.int32(),
        "DOUBLE": pyarrow.float64(),
        "VARCHAR": pyarrow.string(),
        "BOOLEAN": pyarrow.bool_(),
        "TIMESTAMP": pyarrow.timestamp("us"),
        "DOUBLE[]": pyarrow.list_(pyarrow.float64()),
    }
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    arrays = [pyarrow.array(list(values), plain.get(kind)) for values, kind in zip(columns, types, strict=True)]
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=names), output)


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names of columns, with a number behind one that is there already (`SELECT a.step, b.step`)."""
    names: list[str] = []
    for column in columns:
        number = sum(name.rpartition("_")[0] == column or name == column for name in names)
        names.append(column if column not in names else f"{column}_{number + 1}")
    return names


@contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with output.open("w", encoding="utf-8", newline="") as stream:
        yield stream
