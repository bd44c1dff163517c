"""The daemon's account of itself: `daemon.json`, written at every change, read by `sounding status` in any process."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

HEARTBEAT = "daemon.json"


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
    state: str  # starting, watching, measuring, stopped
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


def write_status(results: Path, status: Status) -> None:
    """Replace the heartbeat file at once, so that a reader never sees half of one."""
    temporary = results / f"{HEARTBEAT}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(status)), encoding="utf-8")
    temporary.replace(results / HEARTBEAT)


def read_status(results: Path) -> Status | None:
    """The last heartbeat; None when no daemon has ever run here."""
    try:
        fields = json.loads((results / HEARTBEAT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    stores = tuple(StoreStatus(**store) for store in fields.pop("stores"))
    running = tuple(Running(**{**job, "plugins": tuple(job["plugins"])}) for job in fields.pop("running"))
    texts = {name: tuple(fields[name]) for name in ("refusals", "recipe_problems")}
    return Status(**{**fields, "stores": stores, "running": running, **texts})


def age_seconds(status: Status, now: datetime) -> float:
    """Seconds since the last heartbeat, by the clocks of two processes: for display, never for a decision."""
    return (now - datetime.fromisoformat(status.heartbeat)).total_seconds()
