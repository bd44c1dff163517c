"""From the rename of a checkpoint to the start of its job, with a warm worker. Budget: median below 100 ms.

    python benchmarks/latency.py [--checkpoints N] [--megabytes M] [--keep]

A thread plays the trainer: it writes a torch zip under another name and renames it in. The job starts when the
daemon has recorded the verdict, planned, and left the job's mark on disk.
"""

import argparse
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path

import torch
from record import record
from rich.console import Console
from rich.table import Table

from sounding.config import load_config
from sounding.keeping.results import ResultsDirectory
from sounding.measuring.discovery import load
from sounding.running.loop import Daemon
from sounding.running.service import running

CONFIG = """
[[stores]]
path = "runs"
pattern = "{run}/ckpt_{step}.pt"
"""
PLUGIN = "weight_norm"  # alone, so that every job is that of a new checkpoint
WITHOUT = "".join(f"\n[plugins.{name}]\nenabled = false\n" for name in sorted(set(load().plugins) - {PLUGIN}))
BUDGET_MS = 100.0


@dataclass
class Moments:
    """When each checkpoint was renamed, and when its job began, on the monotonic clock."""

    renamed: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)


def train(daemon: Daemon, directory: Path, count: int, megabytes: float, moments: Moments) -> None:
    """Write and rename one checkpoint after the other, each when the job of the one before is over."""
    weights = {"weight": torch.randn(int(megabytes * 2**18 / 64), 64)}
    for step in range(1, count + 1):
        torch.save({"model": weights, "step": step}, directory / "unfinished")
        (directory / "unfinished").rename(directory / f"ckpt_{step}.pt")
        moments.renamed.append(time.monotonic())
        while len(moments.started) < step or daemon.crew.busy:
            time.sleep(0.001)
        time.sleep(0.3)  # its results are published, the daemon is idle again


def measure(count: int, megabytes: float) -> list[float]:
    """Latency of each checkpoint in milliseconds."""
    moments = Moments()
    with tempfile.TemporaryDirectory() as temporary:
        lab = Path(temporary)
        (lab / "runs" / "a").mkdir(parents=True)
        (lab / "sounding.toml").write_text(CONFIG + WITHOUT)

        def at(point: str) -> None:
            if point == "marked":
                moments.started.append(time.monotonic())

        settings = load_config(lab / "sounding.toml")
        with running(settings, results=ResultsDirectory(settings.results, at)) as daemon:
            trainer = threading.Thread(target=train, args=(daemon, lab / "runs" / "a", count, megabytes, moments))
            while daemon.crew.busy:  # the workers warm up
                daemon.tick(time.monotonic(), datetime.now(UTC))
            trainer.start()
            while trainer.is_alive():
                daemon.tick(time.monotonic(), datetime.now(UTC))
                connections = [child.connection for child in daemon.crew.children if child.connection]
                wait([daemon.bell.fileno(), *connections], daemon.pause(time.monotonic()))
    return [1000 * (start - rename) for rename, start in zip(moments.renamed, moments.started, strict=True)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=40)
    parser.add_argument("--megabytes", type=float, default=16.0)
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    arguments = parser.parse_args()
    latencies = sorted(measure(arguments.checkpoints, arguments.megabytes))
    figures = {
        "checkpoints": len(latencies),
        "megabytes": arguments.megabytes,
        "median_ms": round(statistics.median(latencies), 1),
        "p90_ms": round(latencies[int(0.9 * len(latencies))], 1),
        "max_ms": round(latencies[-1], 1),
        "budget_ms": BUDGET_MS,
    }
    table = Table("checkpoints", "size / MB", "median / ms", "p90 / ms", "max / ms", "budget / ms")
    table.add_row(*(str(value) for value in figures.values()))
    Console().print(table)
    if arguments.keep:
        record("latency", figures)


if __name__ == "__main__":
    main()
