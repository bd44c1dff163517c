"""The state of a daemon and its results, gathered cheaply and drawn for a person."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sounding.running.lock import Holder, Standing, holder
from sounding.running.status import Status, age_seconds, duration_text, read_status
from sounding_cli.figures import size_text
from sounding_cli.screen import Column, table_of

ENDED = ("stopped", "died")  # states in which a daemon says farewell
_LITTLE_SHARE, _LITTLE_BYTES = 0.02, 2_000_000_000  # free space below both is worth a warning

_NAMES = 11  # columns that the names of lines take

_STORES = (
    Column("name", "store", style="bold"),
    Column("runs", align="right"),
    Column("complete", align="right"),
    Column("pending", align="right"),
    Column("abandoned", align="right"),
    Column("broken", align="right"),
    Column("problem", gives_way=True),
)


@dataclass(frozen=True, slots=True)
class Account:
    """What there is to say of a results directory at one moment."""

    results: Path
    holder: Holder | None
    status: Status | None
    files: int
    size_bytes: int
    free_bytes: int
    total_bytes: int
    read_only: bool  # the file system of the results: not even a heartbeat can be written
    now: datetime

    @property
    def alive(self) -> bool:
        """Whether a daemon is known to work here now."""
        return self.holder is not None and self.holder.alive

    @property
    def nearly_full(self) -> bool:
        """Whether the disk of the results is about to fill up."""
        return self.free_bytes < _LITTLE_BYTES and self.free_bytes < _LITTLE_SHARE * self.total_bytes

    def plain(self) -> dict[str, object]:
        """The same for programs; the keys are the same whether a daemon runs, has run, or never did."""
        daemon = {field.name: None for field in fields(Status)} if self.status is None else asdict(self.status)
        disk = {"free_bytes": self.free_bytes, "total_bytes": self.total_bytes, "nearly_full": self.nearly_full}
        disk["read_only"] = self.read_only
        results = {"path": str(self.results), "files": self.files, "size_bytes": self.size_bytes}
        standing = (Standing.FREE if self.holder is None else self.holder.standing).value
        return {"alive": self.alive, "lock": standing, "daemon": daemon, "results": results, "disk": disk}


def account(results: Path) -> Account:
    """Look at a results directory and its daemon's heartbeat."""
    sizes = list(_sizes(results))
    existing = next(path for path in (results, *results.parents) if path.exists())
    disk, read_only = shutil.disk_usage(existing), bool(os.statvfs(existing).f_flag & os.ST_RDONLY)
    return Account(
        results, holder(results), read_status(results),
        len(sizes), sum(sizes), disk.free, disk.total, read_only, datetime.now(UTC),
    )  # fmt: skip


def drawn(account: Account) -> RenderableType:
    """The account as lines and a table of the stores."""
    lines = [_line("results", f"{size_text(account.size_bytes)} in {_files(account.files)}  {account.results}")]
    status = account.status
    parts: list[RenderableType] = []
    if status is not None:
        lines.append(_line("work", work_text(status)))
        lines += [_line("", text) for text in running_texts(status, account.now)] if account.alive else []
        lines += [_line("refused", refusal, "yellow") for refusal in status.refusals]
        lines += [_line("note", status.message, "yellow")] if status.message else []
        lines += [
            _line(
                "scanned", f"{store.name} on a network file system ({store.scanned}): on a timer, without file events"
            )
            for store in status.stores
            if store.scanned
        ]
        if status.stores:
            parts = [Text(), table_of(_store_rows(status), _columns(status))]
    if account.read_only:
        lines.append(_line("disk", "read-only: nothing is measured, and the heartbeat stands still", "red"))
    if account.nearly_full:
        lines.append(_line("disk", f"nearly full: {size_text(account.free_bytes)} left; measuring will stop", "red"))
    return Group(*_daemon_lines(account), *lines, *parts)


def work_text(status: Status) -> str:
    """What is owed and done, in one line."""
    owed = f"{status.owed} owed" + (f" ({status.waiting} waiting to be tried again)" if status.waiting else "")
    return f"{owed} · {status.done} done · {status.skipped} skipped · {status.failed} failed"


def running_texts(status: Status, now: datetime) -> list[str]:
    """What each busy worker does."""
    return [
        f"measuring {job.run} @ {job.step}: {', '.join(job.plugins)} "
        f"({duration_text((now - datetime.fromisoformat(job.since)).total_seconds())})"
        for job in status.running
    ]


def _daemon_lines(account: Account) -> list[Table]:
    """What is known of the daemon: the same lines however it was started, and whether or not it still runs."""
    status = account.status
    text, style = _daemon_text(account)
    lines = [_line("daemon", text, style)]
    if status is None:
        return [*lines, _line("process", "none"), _line("since", "never"), _line("heartbeat", "never")]
    started = datetime.fromisoformat(status.started)
    lived = duration_text((account.now - started).total_seconds())
    return [
        *lines,
        _line("process", f"pid {status.pid} on {status.host}"),
        _line("since", f"{started:%Y-%m-%d %H:%M:%S} UTC, {lived} ago"),
        _line("heartbeat", f"{duration_text(age_seconds(status, account.now))} ago"),
    ]


def _daemon_text(account: Account) -> tuple[str, str]:
    status = account.status
    if account.holder is not None and account.holder.standing is Standing.ELSEWHERE:
        host = account.holder.host
        text = f"held by host {host}, which cannot be asked from here; if it is gone: `sounding stop --forget`"
        return text, "yellow"
    if status is None:
        return (
            ("starting", "green") if account.alive else ("none has run here yet; `sounding start` starts one", "yellow")
        )
    if account.alive:
        return f"{status.state}, in the {status.mode}", "green"
    ended = status.state if status.state in ENDED else "ended without saying so"
    return f"not running; the last one, in the {status.mode}, {ended}", "yellow"


def _line(name: str, text: str, style: str = "") -> Table:
    """A line with its name in front; what does not fit goes on below itself, not below the name."""
    line = Table.grid()
    line.add_column(style="bold", width=_NAMES, no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(name, Text(text, style))
    return line


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _store_rows(status: Status) -> list[dict[str, object]]:
    return [asdict(store) for store in status.stores]


def _columns(status: Status) -> list[Column]:
    troubled = any(store.problem for store in status.stores)
    return [column for column in _STORES if troubled or column.key != "problem"]


def _sizes(results: Path) -> Iterator[int]:
    for room in ("jobs", "examples"):
        try:
            with os.scandir(results / room) as entries:
                for entry in entries:
                    try:
                        yield entry.stat().st_size
                    except FileNotFoundError:
                        continue  # folded away since the listing
        except FileNotFoundError:
            continue  # nothing was ever published
