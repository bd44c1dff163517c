"""The daemon's account of itself: `daemon.json`, written at every change, read by `sounding status` in any process."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from sounding.errors import SoundingError

HEARTBEAT = "daemon.json"
Mode: TypeAlias = Literal["foreground", "background"]


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What the daemon sees of one store; `problem` says why it sees nothing."""

    name: str
    path: str
    runs: int = 0
    complete: int = 0
    pending: int = 0
    abandoned: int = 0
    broken: int = 0
    problem: str = ""
    scanned: str = ""  # kind of the network file system, of which no events tell what other hosts write


@dataclass(frozen=True, slots=True)
class Running:
    """A job that a worker is busy with."""

    run: str
    step: int
    plugins: tuple[str, ...]
    since: str  # UTC, ISO 8601


@dataclass(frozen=True, slots=True)
class Status:
    """One moment of a daemon's life; times are UTC, ISO 8601."""

    host: str
    pid: int
    started: str
    heartbeat: str
    state: str  # starting, watching, measuring, stopping, stopped; died where it could say so
    stores: tuple[StoreStatus, ...] = ()
    running: tuple[Running, ...] = ()
    owed: int = 0  # tasks that remain to be done
    waiting: int = 0  # of those owed, tasks that wait for a retry
    done: int = 0  # tasks settled with readings, over the life of the results
    skipped: int = 0
    failed: int = 0  # tasks given up
    refusals: tuple[str, ...] = ()  # plugins that cannot be used, and why
    recipe_problems: tuple[str, ...] = ()  # "store/run: why the recipe cannot be used"
    message: str = ""  # what a person should know now, such as a full disk
    mode: Mode = "foreground"  # how it was started


def write_status(results: Path, status: Status) -> None:
    """Replace the heartbeat file at once, so that a reader never sees half of one."""
    temporary = results / f"{HEARTBEAT}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(status)), encoding="utf-8")
    temporary.replace(results / HEARTBEAT)


def read_status(results: Path) -> Status | None:
    """The last heartbeat; None when no daemon has ever run here.

    Raises SoundingError when another version wrote it, or a crash of the machine left it empty.
    """
    path = results / HEARTBEAT
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        stores = tuple(StoreStatus(**store) for store in fields.pop("stores"))
        running = tuple(Running(**{**job, "plugins": tuple(job["plugins"])}) for job in fields.pop("running"))
        texts = {name: tuple(fields[name]) for name in ("refusals", "recipe_problems")}
        return Status(**{**fields, "stores": stores, "running": running, **texts})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SoundingError(
            f"{path}: expected the heartbeat of a daemon of this version ({error}); "
            f"the next `sounding watch` writes it anew."
        ) from error


def age_seconds(status: Status, now: datetime) -> float:
    """Seconds since the last heartbeat, by the clocks of two processes: for display, never for a decision."""
    return (now - datetime.fromisoformat(status.heartbeat)).total_seconds()


def heard(results: Path, now: datetime | None = None) -> str:
    """When the last daemon here was heard of, in words."""
    try:
        status = read_status(results)
    except SoundingError:
        return "its last heartbeat cannot be read"
    if status is None:
        return "no heartbeat yet"
    return f"last heartbeat {duration_text(age_seconds(status, now or datetime.now(UTC)))} ago"


def duration_text(seconds: float) -> str:
    """A duration as people say it: 5 s, 12 min, 3 h 20 min, 4 d 2 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
