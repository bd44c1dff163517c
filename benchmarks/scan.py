"""What it costs to watch 100,000 files in 10,000 directories: the first scan, a turn in which nothing happens, memory.

Run with `python benchmarks/scan.py`. Two shapes of store are made under the system's temporary directory: checkpoints
that are directories of ten files, and runs that are directories of ten checkpoints of one file. Before the first scan
the caches of all files are dropped as far as `posix_fadvise` drops them; names and inodes stay cached. The daemon is
a whole one but for its children: every checkpoint is already examined, and measured by four plugins.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import psutil
from record import record

from sounding.config import Settings, Store, load_config
from sounding.deciding.plan import Wish
from sounding.keeping.ledger import Ledger
from sounding.keeping.results import ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import outcome_row
from sounding.logs.reading import LogsRead
from sounding.records import (
    Catalogue,
    Ending,
    Examination,
    Fact,
    Outcome,
    PluginSheet,
    Progress,
    Sighting,
    State,
    Verdict,
)
from sounding.running.clerk import Clerk
from sounding.running.crew import Crew
from sounding.running.dispatch import Limits
from sounding.running.foreman import Foreman
from sounding.running.journal import Journal
from sounding.running.lock import Lock
from sounding.running.loop import Daemon
from sounding.schedule import parse_schedule
from sounding.seeing.lookout import Lookout
from sounding.seeing.scan import Scanner
from sounding.seeing.watch import Bell, Watch

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
PLUGINS = ("weight_norm", "weight_change", "loss", "gradient_norm")
IDLE = 20  # looks
BUDGETS = {"cold_scan_s": 10.0, "idle_turn_processor_s": 0.1, "memory_mb": 300.0}
CONFIG = (
    '[results]\npath = "{results}"\n[[stores]]\npath = "{store}"\npattern = "{pattern}"\n[daemon]\nevents = false\n'
)


@dataclass(frozen=True)
class Shape:
    """A store: so many runs, checkpoints of each, and files of each checkpoint (0: the checkpoint is a file)."""

    pattern: str
    runs: int
    files: int


SHAPES = {
    "checkpoints of ten files": Shape("{run}/checkpoint-{step}", 1_000, 10),
    "checkpoints of one file": Shape("{run}/ckpt_{step}.pt", 10_000, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", type=Path, default=Path(tempfile.gettempdir()) / "sounding-scan")
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    parser.add_argument("--measure", metavar="SHAPE", help=argparse.SUPPRESS)  # in a fresh process
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.at, options.measure)))
        return
    kept = {}
    for name in SHAPES:
        build(options.at, name)
        command = [sys.executable, __file__, "--at", str(options.at), "--measure", name]
        kept[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(name)
        for figure, value in kept[name].items():
            budget = f"  (budget {BUDGETS[figure]:g})" if figure in BUDGETS else ""
            print(f"  {figure:<24}{value:>10}{budget}")
    if options.keep:
        record("scan", {"files": 100_000, "directories": 10_000, "budgets": BUDGETS, "shapes": kept})


def build(at: Path, name: str) -> None:
    """Make the store, and results in which everything in it is examined and measured."""
    settings = settings_of(at, name)
    if (settings.results / "built").exists():
        return
    shape, store = SHAPES[name], settings.stores[0].path
    for run in range(shape.runs):
        for step in range(10):
            path = store / f"run-{run:05d}" / (f"checkpoint-{step}" if shape.files else f"ckpt_{step}.pt")
            (path if shape.files else path.parent).mkdir(parents=True, exist_ok=True)
            for file in [path / f"part-{number}" for number in range(shape.files)] or [path]:
                file.write_bytes(b"not read by any scan")
    ResultsDirectory(settings.results).prepare()
    lookout = Lookout(settings, Ledger(ResultsDirectory(settings.results)), examined)
    news, _ = lookout.look(0.0, MOMENT, budget=float("inf"))
    journal = Journal(lookout.ledger.results, lookout.ledger, "built")
    waiting = iter(news)
    while some := list(islice(waiting, 1000)):
        journal.write_sightings(some, MOMENT)
    lookout.ledger.refresh()
    foreman = Foreman(settings, lookout.ledger, lookout, wishes())
    foreman.notice(lookout.runs())
    foreman.replan(0.0, MOMENT)
    tasks = (task for plan in foreman.plans.values() for owed in plan.everything for task in owed.tasks)
    while some := list(islice(tasks, 4000)):
        seq = journal.next_seq()
        temporary = lookout.ledger.results.tmp / tmp_name("built", seq)
        write_rows(temporary, [outcome_row(Outcome(t.key, t.subject, Ending.OK, "", 1, seq, MOMENT)) for t in some])
        lookout.ledger.results.publish(temporary, seq)
    (settings.results / "built").touch()


def measured(at: Path, name: str) -> dict[str, float]:
    """The figures of one shape; nothing else runs in this process."""
    settings = settings_of(at, name)
    drop_caches(settings.stores[0].path)
    start, spent = time.perf_counter(), time.process_time()
    scan = Scanner(settings.stores[0]).scan(0.0, full=True, touched=frozenset(), unsettled=frozenset())
    cold, cold_processor = time.perf_counter() - start, time.process_time() - spent
    sighted = len(scan.seen)
    del scan
    daemon = daemon_of(settings)
    now = 1000.0
    counts = daemon.lookout.counts
    while (
        not counts or counts["store"].total() < sighted or daemon.lookout.unexamined or daemon.foreman.has_stale_plans
    ):
        now = turn(daemon, now)
    assert daemon.foreman.owed_tasks == 0, "something was measured that the daemon does not know of"
    turns = [timed_turn(daemon, now + 10.0 * number) for number in range(1, IDLE + 1)]
    memory = psutil.Process().memory_info().rss
    found = {
        "checkpoints": sighted,
        "outcomes": daemon.ledger.endings.total(),
        "cold_scan_s": cold,
        "cold_scan_processor_s": cold_processor,
        "idle_turn_processor_s": statistics.median(turns),
        "idle_turn_worst_s": max(turns),
        "memory_mb": memory / 1e6,
    }
    return {figure: round(value, 4) for figure, value in found.items()}


def turn(daemon: Daemon, now: float) -> float:
    daemon._rested = 0.0
    daemon.tick(now, MOMENT + timedelta(seconds=now))
    return now + 10.0


def timed_turn(daemon: Daemon, now: float) -> float:
    """Processor seconds of a turn that looks at the store and finds nothing; full scans come every 300 s."""
    daemon._next_full = now + 1.0
    before = time.process_time()
    turn(daemon, now)
    return time.process_time() - before


def daemon_of(settings: Settings) -> Daemon:
    results, bell = ResultsDirectory(settings.results), Bell()
    ledger = Ledger(results)
    ledger.refresh()
    lookout = Lookout(settings, ledger, examined)
    return Daemon(
        settings, results, ledger, Journal(results, ledger, "bench"), lookout,
        Foreman(settings, ledger, lookout, wishes()), Crew(results, [], Limits(60.0, 1 << 30), "bench"),
        Catalogue({wish.sheet.name: wish.sheet for wish in wishes()}), bell, Watch(bell), Lock(settings.results),
        Clerk(settings, results, nothing_read),
    )  # fmt: skip


def settings_of(at: Path, name: str) -> Settings:
    place = at / name.replace(" ", "-")
    (place / "store").mkdir(parents=True, exist_ok=True)
    config = place / "sounding.toml"
    config.write_text(
        CONFIG.format(results=place / "results", store=place / "store", pattern=SHAPES[name].pattern), encoding="utf-8"
    )
    return load_config(config)


def wishes() -> tuple[Wish, ...]:
    sheets = [
        PluginSheet(name, 1, "checkpoint", None, "weights", "", "benchmark", (), (), "0" * 16, (), False, "")
        for name in PLUGINS
    ]
    return tuple(Wish(sheet, parse_schedule("all")) for sheet in sheets)


def examined(sighting: Sighting, store: Store) -> Examination:
    progress = Progress(step=Fact(sighting.step or 0, "path"))
    fingerprint = hashlib.blake2b(sighting.path.encode(), digest_size=16).hexdigest()
    return Examination(Verdict(State.COMPLETE, "made"), False, "made", fingerprint, progress)


def nothing_read(*_: object) -> LogsRead:
    raise AssertionError("the store has no logs")


def drop_caches(store: Path) -> None:
    os.sync()
    for path in everything(str(store)):
        with suppress(OSError):  # directories, where the file system refuses
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def everything(path: str) -> Iterator[str]:
    for directory, _, names in os.walk(path):
        yield directory
        yield from (f"{directory}/{name}" for name in names)


if __name__ == "__main__":
    main()
