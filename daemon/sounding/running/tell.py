"""The daemon's account of itself, made from what it holds."""

import os
import socket
from collections import Counter
from datetime import UTC, datetime

from sounding.deciding.patience import given_up
from sounding.deciding.policy import patience
from sounding.records import Ending, State
from sounding.running.loop import Daemon
from sounding.running.status import Mode, Running, Status, StoreStatus


def tell(daemon: Daemon, started: datetime, state: str, mode: Mode) -> Status:
    """The status of this moment."""
    endings = daemon.ledger.endings
    limits = patience(daemon.settings)
    return Status(
        host=socket.gethostname(),
        pid=os.getpid(),
        started=started.isoformat(),
        heartbeat=datetime.now(UTC).isoformat(),
        state=state,
        stores=tuple(_store(daemon, store.name, str(store.path)) for store in daemon.settings.stores),
        running=tuple(
            Running(job.checkpoint.run, job.checkpoint.step, tuple(t.key.plugin for t in job.tasks), since.isoformat())
            for job, since in daemon.crew.jobs()
        ),
        owed=daemon.foreman.owed_tasks,
        waiting=daemon.foreman.waiting_tasks,
        done=endings[Ending.OK],
        skipped=endings[Ending.SKIPPED],
        failed=sum(given_up(outcome, limits) for outcome in daemon.ledger.unsettled.values()),
        refusals=tuple(f"{refusal.name}: {refusal.reason}" for refusal in daemon.catalogue.refusals),
        recipe_problems=daemon.foreman.surveys.problems(),
        message=daemon.message,
        mode=mode,
    )


def _store(daemon: Daemon, name: str, path: str) -> StoreStatus:
    states = daemon.lookout.counts.get(name, Counter[State]())
    return StoreStatus(
        name,
        path,
        sum(store == name for store, _ in daemon.lookout.runs()),
        states[State.COMPLETE],
        states[State.PENDING],
        states[State.ABANDONED],
        states[State.BROKEN],
        daemon.lookout.problems.get(name, ""),
        daemon.lookout.mounts.network.get(name, ""),
    )
