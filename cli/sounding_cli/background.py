"""`start`, `stop` and `logs`: a daemon in the background."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer

from sounding.errors import SoundingError
from sounding.running.lock import Holder, forget
from sounding.running.logbook import LOG_FILE, Reader
from sounding.running.status import Status, duration_text
from sounding_cli.heartbeat import running_texts, work_text
from sounding_cli.place import place_of
from sounding_cli.screen import Json, console, print_json, say

_FOLLOW_SECONDS = 0.3  # between two looks at a log that is followed


def start(
    ctx: typer.Context,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait so long for it.")] = 120.0,
) -> None:
    """Start the daemon in the background; returns once it watches the stores."""
    from sounding.running.background import start as begin

    with _waiting("starting"):
        status = begin(place_of(ctx).settings(), timeout)
    say(f"started: pid {status.pid} on {status.host} watches {', '.join(store.path for store in status.stores)}")
    for store in status.stores:
        if store.problem:
            say(f"  {store.name}: {store.problem}")
    say("`sounding status` shows what it does, `sounding logs` what it says, `sounding stop` ends it")


def stop(
    ctx: typer.Context,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait so long for it to end.")
    ] = 60.0,
    gone: Annotated[
        bool, typer.Option("--forget", help="Free results held by a machine that is gone; no daemon is stopped.")
    ] = False,
) -> None:
    """Stop the daemon: a job that ends within its grace is kept, another one is returned."""
    from sounding.running.background import stop as end

    results = place_of(ctx).results
    if gone:
        known = forget(results)
        say(f"forgot {known.name}, which held {results} since {known.since}; a daemon can start again")
        return
    with _waiting("stopping") as wait:
        ended = end(results, timeout, wait.progress)
    if ended is None:
        say("no daemon is running")
        return
    how = "stopped" if ended.status is not None and ended.status.state == "stopped" else "ended without saying so"
    say(f"{ended.holder.name} {how} after {duration_text(ended.seconds)}")
    if ended.status is not None:
        say(*filter(None, (ended.status.message, work_text(ended.status))))


def logs(
    ctx: typer.Context,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="The last so many lines.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show what is added until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show what the daemon in the background said."""
    if follow and as_json:
        raise typer.BadParameter("--json is one listing; --follow never ends: one of them")
    results = place_of(ctx).results
    reader = Reader(results)
    try:
        entries = reader.last(count)
    except FileNotFoundError as error:
        raise SoundingError(
            f"{results / LOG_FILE}: no daemon has run here in the background; `sounding start` starts one. In the "
            f"foreground it speaks to its terminal."
        ) from error
    if as_json:
        print_json([entry.plain() for entry in entries])
        return
    for entry in entries:
        typer.echo(entry.line)
    while follow:
        time.sleep(_FOLLOW_SECONDS)
        for entry in reader.more():
            typer.echo(entry.line)
        sys.stdout.flush()


class _Waiting:
    """What is waited for: a line that changes on a terminal, one line elsewhere."""

    def __init__(self, text: str) -> None:
        self.spinner = console().status(text, spinner="dots")
        self._said = False

    def progress(self, holder: Holder, status: Status | None, seconds: float) -> None:
        """Say what a daemon that was told to stop still does."""
        if seconds < 1:
            return
        doing = "; ".join(running_texts(status, datetime.now(UTC))) if status is not None else ""
        text = f"waiting for {holder.name}{f', {doing}' if doing else ''}"
        self.spinner.update(f"{text}: {duration_text(seconds)}")
        if not console().is_terminal and not self._said:
            self._said = True
            say(text)


@contextmanager
def _waiting(text: str) -> Iterator[_Waiting]:
    waiting = _Waiting(text)
    with waiting.spinner:
        yield waiting
