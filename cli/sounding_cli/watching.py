"""`watch` and `scan`: measuring what the stores hold, and a look at what would be measured."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sounding.running.status import Status
from sounding_cli.ask import Row
from sounding_cli.heartbeat import running_texts, work_text
from sounding_cli.place import place_of
from sounding_cli.screen import Column, Json, console, print_json, print_rows, say

if TYPE_CHECKING:
    from sounding.seeing.lookout import Seen

_SEEN = (
    Column("run", style="bold"),
    Column("step", align="right"),
    Column("verdict"),
    Column("format"),
    Column("place", "path in the store", style="dim"),
    Column("why", gives_way=True),
)


def watch(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Measure what is there, then leave.")] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(
            "--until-idle", metavar="SECONDS", min=0, help="Leave when nothing came and nothing was owed for so long."
        ),
    ] = None,
) -> None:
    """Watch the stores and measure every checkpoint, until Ctrl-C."""
    from sounding.running.service import watch as run

    if once and until_idle is not None:
        raise typer.BadParameter(
            "--once leaves when all that is there is measured; --until-idle waits for more: one of them"
        )
    settings = place_of(ctx).settings()
    if not once and until_idle is None:
        say(f"watching {', '.join(str(store.path) for store in settings.stores) or 'nothing'}; Ctrl-C ends it")
    with reporter() as report:
        status = run(settings, once=once, until_idle=until_idle, report=report)
    say(work_text(status))
    if status.failed:
        say("`sounding why CHECKPOINT` says why something failed, `sounding redo` asks for it again")


def scan(ctx: typer.Context, as_json: Json = False) -> None:
    """Look at the stores once and show what would be measured; nothing is written."""
    from sounding.running.service import look

    settings = place_of(ctx).settings()
    roots = {store.name: store.path for store in settings.stores}
    rows = sorted((_seen_row(seen, roots) for seen in look(settings)), key=_place_in_list)
    if as_json:
        print_json([{key: value for key, value in row.items() if key not in ("place", "why")} for row in rows])
        return
    empty = "\n".join(
        f"no checkpoint in {store.path} matches {' or '.join(pattern.text for pattern in store.patterns)}"
        for store in settings.stores
    )
    empty = empty or f"{settings.source} names no store: add [[stores]] with a path and a pattern"
    print_rows(rows, _SEEN, as_json=False, empty=empty)


def _seen_row(seen: "Seen", roots: Mapping[str, Path]) -> Row:
    known = seen.checkpoint
    return {
        "store": seen.sighting.store,
        "run": seen.sighting.run,
        "step": seen.sighting.step if known is None else known.step,
        "verdict": seen.verdict.state.value,
        "reason": seen.verdict.reason,
        "format": None if known is None else known.format,
        "path": seen.sighting.path,
        "checkpoint_id": None if known is None else known.checkpoint_id,
        "place": str(Path(seen.sighting.path).relative_to(roots[seen.sighting.store])),
        "why": None if known is not None else seen.verdict.reason,
    }


def _place_in_list(row: Row) -> tuple[object, ...]:
    step = row["step"]
    return (row["store"], row["run"], step is None, 0 if step is None else step, row["path"])


@contextmanager
def reporter(heading: str = "") -> Iterator[Callable[[Status], None]]:
    """What a daemon in this process reports to: a live display on a terminal, a line per change elsewhere."""
    if not sys.stdout.isatty():
        yield line_reporter()
        return
    with Live(Text("starting", style="dim"), console=console(), refresh_per_second=8, transient=True) as live:
        yield lambda status: live.update(display(status, datetime.now(UTC), heading))


def line_reporter() -> Callable[[Status], None]:
    """A plain line whenever what is being done, or what has been done, differs from the line before."""
    last: list[tuple[object, ...]] = []

    def report(status: Status) -> None:
        jobs = [(job.run, job.step) for job in status.running]
        seen = (status.state, status.done, status.failed, jobs, status.message)
        if last[-1:] == [seen]:
            return
        last[:] = [seen]
        doing = ", ".join(f"{run} @ {step}" for run, step in jobs)
        message = f" · {status.message}" if status.message else ""
        say(f"{status.state}{f' {doing}' if doing else ''} · {work_text(status)}{message}")

    return report


def display(status: Status, now: datetime, heading: str = "") -> RenderableType:
    """One frame of the live display: what is done of all that is wanted, and what the workers are busy with."""
    settled = status.done + status.skipped + status.failed
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, settled + status.owed), completed=settled, width=30)
    line.add_row(Text(status.state, style="bold"), bar, Text(work_text(status)))
    seen = ", ".join(f"{store.name}: {store.complete} complete, {store.pending} pending" for store in status.stores)
    lines: list[RenderableType] = [Text(heading)] if heading else []
    lines += [line, Text(seen, style="dim")]
    lines += [Text(text) for text in running_texts(status, now)]
    lines += [Text(status.message, style="yellow")] if status.message else []
    return Group(*lines)
