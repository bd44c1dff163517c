"""`runs` and `checkpoints`: what has been seen."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sounding_cli.ask import ask, glob_condition
from sounding_cli.place import place_of
from sounding_cli.screen import Column, Json, print_rows

_RUN_TITLES = {"first_step": "from step", "last_step": "to step", "last_seen": "last seen"}


def runs(ctx: typer.Context, as_json: Json = False) -> None:
    """List all runs with their attributes."""
    results = place_of(ctx).results
    rows = ask(results, "SELECT * FROM runs ORDER BY store, run")
    columns = [
        Column(key, _RUN_TITLES.get(key, key.replace("_", " ")), style="bold" if key == "run" else "")
        for key in (rows[0] if rows else ())
        if any(row[key] is not None for row in rows)
    ]
    print_rows(rows, columns, as_json=as_json, empty=_nothing_seen(results, "runs"))


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
    for row in rows:
        row["id"] = str(row["checkpoint_id"] or "")[:10]
        row["megabytes"] = None if row["size_bytes"] is None else float(str(row["size_bytes"])) / 1e6
    columns = (
        Column("run", style="bold"),
        Column("step", align="right"),
        Column("status"),
        Column("id", style="dim"),
        Column("format"),
        Column("megabytes", "size", "[MB]", align="right"),
        Column("epoch", align="right"),
        Column("lr_stored", "lr"),
        Column("first_seen", "first seen", "[UTC]"),
        Column("reason"),
    )
    shown = [column for column in columns if any(row[column.key] is not None for row in rows)]
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
