"""`runs` and `checkpoints`: what has been seen."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sounding_cli.ask import ask, glob_condition
from sounding_cli.figures import size_text
from sounding_cli.place import place_of
from sounding_cli.screen import Column, Json, note, print_rows

_RUN = (
    Column("store"),
    Column("run", style="bold"),
    Column("checkpoints", align="right"),
    Column("first_step", "from step", align="right"),
    Column("last_step", "to step", align="right"),
    Column("measured", align="right"),
    Column("first_seen", "first seen", "[UTC]"),
)


def runs(ctx: typer.Context, as_json: Json = False) -> None:
    """List all runs, with the attributes in which they differ."""
    results = place_of(ctx).results
    rows = ask(results, "SELECT * FROM runs ORDER BY store, run")
    known = {column.key for column in _RUN}
    keys = [key for key in (rows[0] if rows else ()) if key not in known]
    keys = [key for key in keys if any(row[key] != row["run"] for row in rows)]  # a run's name needs no second column
    varying = [key for key in keys if len({row[key] for row in rows}) > 1]
    one_store = len({row["store"] for row in rows}) == 1
    columns = [column for column in _RUN if not (one_store and column.key == "store")]
    columns += [Column(key, align="right", exact=True) for key in varying]
    print_rows(rows, columns, as_json=as_json, empty=_nothing_seen(results, "runs"))
    alike = [(key, rows[0][key]) for key in keys if key not in varying and rows[0][key] is not None]
    if alike and not as_json:
        note(
            ("the same in all: " if len(rows) > 1 else "") + ", ".join(f"{key} {_said(value)}" for key, value in alike)
        )


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def checkpoints(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Option("--run", help="Of this run only; * and ? match.")] = None,
    status: Annotated[
        Literal["complete", "pending", "abandoned", "broken"] | None,
        typer.Option("--status", help="In this state only."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List checkpoints: where they stand on their way to being measured, and why."""
    results = place_of(ctx).results
    conditions, values = glob_condition("run", run)
    if status is not None:
        conditions, values = [*conditions, "status = ?"], [*values, status]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = ask(results, f"SELECT * FROM checkpoints {where} ORDER BY store, run, step NULLS LAST, path", values)
    for row in rows if not as_json else ():
        row["id"] = str(row["checkpoint_id"] or "")[:8]
        row["size"] = size_text(float(str(row["size_bytes"] or 0)))
        row["why"] = row["reason"] if row["status"] != "complete" else None
    columns = (
        Column("run", style="bold"),
        Column("step", align="right"),
        Column("status"),
        Column("id", style="dim"),
        Column("size", align="right"),
        Column("epoch", align="right"),
        Column("lr_stored", "next lr", align="right", exact=True),
        Column("first_seen", "first seen", "[UTC]"),
        Column("why", gives_way=True),
    )
    shown = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    filtered = run is not None or status is not None
    empty = "no checkpoint is like that; `sounding checkpoints` lists all" if filtered and _any(results) else ""
    print_rows(rows, shown, as_json=as_json, empty=empty or _nothing_seen(results, "checkpoints"))


def _any(results: Path) -> bool:
    return bool(ask(results, "SELECT 1 AS found FROM checkpoints LIMIT 1"))


def _nothing_seen(results: Path, what: str) -> str:
    return (
        f"no {what} yet in {results}: `sounding watch` measures what the stores hold, "
        f"`sounding scan` shows what it would see"
    )
