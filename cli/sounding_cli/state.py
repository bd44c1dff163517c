"""`status`, `why` and `redo`: what the daemon does, why a checkpoint was not measured, and asking for it again."""

import time
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from sounding.errors import SoundingError
from sounding_cli.heartbeat import account, drawn
from sounding_cli.place import place_of
from sounding_cli.screen import Column, Json, console, print_json, say, table_of

_REFRESH = 1.0  # seconds between two looks of `status --watch`
_TASKS = (Column("plugin", style="bold"), Column("state"), Column("reason", gives_way=True))


def status(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show it live until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show whether a daemon runs, what it does, and what remains to be done."""
    results = place_of(ctx).results
    if as_json:
        print_json(account(results).plain())
        return
    if not watch:
        console().print(drawn(account(results)))
        return
    out = console()
    if not out.is_terminal:
        while True:
            out.print(drawn(account(results)))
            time.sleep(_REFRESH)
    with Live(drawn(account(results)), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH)
            live.update(drawn(account(results)), refresh=True)


def why(
    ctx: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="A path, the first letters of a checkpoint's id, RUN@STEP, or RUN."),
    ],
    as_json: Json = False,
) -> None:
    """Say what is believed of a checkpoint, and why each plugin has or has not measured it, or the run as a whole."""
    from sounding.asking.why import why as explain

    explanations = explain(place_of(ctx).settings(), checkpoint)
    if as_json:
        print_json([_plain(explanation) for explanation in explanations])
        return
    if not explanations:
        raise SoundingError(
            f"no checkpoint {checkpoint!r}: expected a path, the first letters of an id, or RUN@STEP; "
            f"`sounding checkpoints` lists all."
        )
    for place, explanation in enumerate(explanations):
        say(*([""] if place else []))
        _print_explanation(explanation)


def redo(
    ctx: typer.Context,
    plugin: Annotated[str | None, typer.Option("--plugin", help="Readings of this plugin.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Of this run.")] = None,
    step: Annotated[int | None, typer.Option("--step", help="At this step.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Of the checkpoint whose id starts so.")
    ] = None,
) -> None:
    """Ask the daemon to measure again whatever matches all that is given."""
    from sounding.asking.again import ask_again
    from sounding.keeping.requests import Redo

    if plugin is None and run is None and step is None and checkpoint is None:
        raise typer.BadParameter("name what to measure again, with --plugin, --run, --step or --checkpoint")
    results = place_of(ctx).results
    count = ask_again(results, Redo(plugin, run, step, checkpoint))
    given = {"plugin": plugin, "run": run, "step": step, "checkpoint": checkpoint}
    said = ", ".join(f"{key} {value}" for key, value in given.items() if value is not None)
    alive = account(results).alive
    say(
        f"asked for again: {said} ({count} {'outcome' if count == 1 else 'outcomes'})",
        "" if alive else "no daemon is running; `sounding watch --once` does it now",
    )


def _print_explanation(explanation: Any) -> None:
    of_run = explanation.verdict == "run"
    heading = (
        explanation.run if of_run else f"{explanation.run} @ {'?' if explanation.step is None else explanation.step}"
    )
    out = console()
    out.print(Text.assemble((heading, "bold"), f"  {explanation.checkpoint_id or ''}"), soft_wrap=True)
    out.print(Text(f"{explanation.path}  (store {explanation.store})".strip(), style="dim"), soft_wrap=True)
    out.print(Text.assemble((str(explanation.verdict), "bold"), f": {explanation.reason}"), soft_wrap=True)
    tasks = [_plain_task(task) for task in explanation.tasks]
    if tasks:
        out.print(Text())
        out.print(table_of(tasks, _TASKS))


def _plain(explanation: Any) -> dict[str, object]:
    keys = ("checkpoint_id", "store", "run", "step", "path", "verdict", "reason")
    found: dict[str, object] = {key: getattr(explanation, key) for key in keys}
    return {**found, "tasks": [_plain_task(task) for task in explanation.tasks]}


def _plain_task(task: Any) -> dict[str, object]:
    return {key: getattr(task, key) for key in ("plugin", "state", "reason")}
