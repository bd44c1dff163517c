"""Whole-process time of the questions people ask, over 10M folded readings and 500 files not yet folded.

Run with `python benchmarks/query_speed.py`; the results directory is built once and kept under the system's
temporary directory. Every figure is the median of whole processes, interpreter start and imports included.
"""

import argparse
import itertools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from record import record

from sounding.keeping.folding import copy_sorted
from sounding.keeping.listing import fold_name, in_memory
from sounding.keeping.results import ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import Row
from sounding.keeping.schema import COLUMNS
from sounding.keeping.worklist import works_in
from sounding.running.status import Status, StoreStatus, write_status

RUNS, CHECKPOINTS, PARTS = 200, 100, 125
PLUGINS = {"weight_norm": "frobenius", "weight_change": "rotation", "loss": "loss", "gradient_norm": "norm"}
FOLDED = RUNS * CHECKPOINTS * PARTS * len(PLUGINS)
LOOSE = 500
SHAPE = (*(6,) * 13, *(4,) * 4, 3, 2, 1)  # relative sizes of the folded files: what tiers of four leave behind
CONFIG = """[results]
path = "{path}"

[[stores]]
path = "{store}"
pattern = "{{run}}/ckpt_{{step}}.pt"
"""
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)

SERIES = "SELECT step, value FROM readings WHERE run = 'run-017' AND metric = 'loss' AND part = 'layer.3' ORDER BY step"
ALL = "SELECT plugin, metric, part, count(*), avg(value) FROM readings GROUP BY ALL"
WHOLE = "SELECT step, part, value FROM readings WHERE run = 'run-017' AND metric = 'loss' ORDER BY part, step"
DOOR = "from sounding.asking.readonly import run_guarded; print(len(run_guarded({path!r}, {sql!r}).rows))"
HEARTBEAT = (
    "from pathlib import Path; from sounding.running.status import read_status; print(read_status(Path({path!r})))"
)


@dataclass(frozen=True)
class Question:
    """What is asked: the seconds it may take, the arguments of the command line, and the same without it."""

    name: str
    budget: float
    arguments: tuple[str, ...]
    program: str
    sql: str = ""


QUESTIONS = (
    Question("status", 0.6, ("status",), HEARTBEAT),
    Question("show a series", 1.0, ("show", "run-017", "loss.loss", "--part", "layer.3"), DOOR, SERIES),
    Question("show 125 series", 2.0, ("show", "run-017", "loss"), DOOR, WHOLE),
    Question("query a series", 1.0, ("query", SERIES), DOOR, SERIES),
    Question("group by, all", 2.0, ("query", ALL), DOOR, ALL),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", type=Path, default=Path(tempfile.gettempdir()) / "sounding-query-speed")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--library", action="store_true", help="ask the library, not the command line")
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    options = parser.parse_args()
    if not (options.at / "built").exists():
        build(options.at)
    config = options.at / "sounding.toml"
    (options.at / "store").mkdir(exist_ok=True)
    config.write_text(CONFIG.format(path=options.at, store=options.at / "store"))
    moment = MOMENT.isoformat()
    seen = StoreStatus("runs", str(options.at / "store"), RUNS, RUNS * CHECKPOINTS)
    write_status(options.at, Status("host", 1, moment, moment, "stopped", (seen,), done=RUNS * CHECKPOINTS))
    found = None if options.library else shutil.which("sounding", path=Path(sys.executable).parent)
    print(f"{'question':<16}{'by':<12}{'budget':>8}{'median':>8}{'worst':>8}{'CPU':>8}")
    kept = {}
    for question in QUESTIONS:
        program = question.program.format(path=str(options.at), sql=question.sql)
        command = [found, *question.arguments] if found else [sys.executable, "-c", program]
        taken, spent = zip(*(timed(command, config) for _ in range(options.times)), strict=True)
        by = "sounding" if found else "library"
        figures = (question.budget, statistics.median(taken), max(taken), statistics.median(spent))
        print(f"{question.name:<16}{by:<12}" + "".join(f"{figure:>8.2f}" for figure in figures))
        names = ("budget_s", "median_s", "worst_s", "processor_s")
        kept[question.name] = {name: round(figure, 2) for name, figure in zip(names, figures, strict=True)}
    if options.keep:
        record("query_speed", {"readings": FOLDED, "loose_files": LOOSE, "asked_of": by, "questions": kept})


def timed(command: list[str], config: Path) -> tuple[float, float]:
    """Seconds that the whole process took, and seconds of processor time; on a busy machine they are far apart."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "SOUNDING_CONFIG": str(config)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, spent


def build(at: Path) -> None:
    shutil.rmtree(at, ignore_errors=True)
    results = ResultsDirectory(at)
    results.prepare()
    start = time.perf_counter()
    steps = RUNS * CHECKPOINTS  # jobs in the order a daemon sees them: all runs side by side
    for before, after in itertools.pairwise(itertools.accumulate(SHAPE, initial=0)):
        first, last = steps * before // sum(SHAPE), steps * after // sum(SHAPE)
        with in_memory({}) as connection:
            source = f"({generated(first, last)})"
            works = works_in(connection, source)
            copy_sorted(connection, source, results.jobs / fold_name(last, MOMENT), [], works)
        print(f"  {last - first} jobs folded, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    for job in range(steps, steps + LOOSE):
        tmp = results.tmp / tmp_name("bench", job)
        write_rows(tmp, list(loose_rows(job)))
        results.publish(tmp, job)
    (at / "built").touch()


def generated(first: int, last: int) -> str:
    """SQL for the rows of jobs `first` to `last`, with exactly our columns."""
    subject = {
        "seq": "job",
        "recorded_at": "TIMESTAMP '2026-01-01' + INTERVAL 1 SECOND * job",
        "store": "'runs'",
        "run": f"format('run-{{:03d}}', job % {RUNS})",
        "step": f"job // {RUNS} * 1000",
        "checkpoint_id": "md5(job::VARCHAR)[:24]",
    }
    work = subject | {
        "model": "''", "over": "'checkpoint'", "plugin": "plugin", "version": "1", "options_hash": "'0123456789abcdef'",
        "basis": "'basis-' || plugin", "dtype": "'float32'", "device": "'cpu'", "probe": "''", "seed": "0",
    }  # fmt: skip
    plugins = ", ".join(f"('{plugin}', '{metric}')" for plugin, metric in PLUGINS.items())
    jobs = f"range({first}, {last}) AS jobs(job)"
    works = f"{jobs}, (VALUES {plugins}) AS plugins(plugin, metric)"
    reading = work | {
        "metric": "metric", "part": "'layer.' || part", "kind": "'Linear'", "depth": "part", "group": "''",
        "split": "''", "status": "'ok'", "unit": "'weight'", "value": "hash(job, plugin, part) / 1.8e19",
    }  # fmt: skip
    outcome = work | {"status": "'ok'", "reason": "''", "attempt": "1", "options": "'{}'", "wall_seconds": "0.25"}
    outcome |= {"readings": str(PARTS), "identity": "md5(concat(job, plugin))[:24]"}
    verdict = subject | {
        "identity": "md5(job::VARCHAR || 'path')[:24]",
        "status": "'complete'", "reason": "'whole'", "path": "'/runs/' || job", "format": "'torch zip'",
        "fingerprint": "md5(job::VARCHAR)", "stamp": "'[]'", "size_bytes": "1000000", "ordinal": f"job // {RUNS}",
        "first_seen": "TIMESTAMP '2026-01-01' + INTERVAL 1 SECOND * job", "updates": f"job // {RUNS} * 1000",
        "updates_source": "'path'",
    }  # fmt: skip
    parts = [
        row("reading", reading, f"{works}, range({PARTS}) AS parts(part)"),
        row("outcome", outcome, works),
        row("verdict", verdict, jobs),
    ]
    if first == 0:
        setting = {"seq": "0", "plugin": "plugin", "version": "1", "options_hash": "'0123456789abcdef'"}
        parts.append(row("setting", setting, f"(VALUES {plugins}) AS plugins(plugin, metric)"))
        attribute = {
            "seq": "0", "store": "'runs'", "run": f"format('run-{{:03d}}', job % {RUNS})", "key": "key",
            "number": "job % 7", "text": "(job % 7)::VARCHAR", "source": "'path'",
        }  # fmt: skip
        keys = "(VALUES ('lr'), ('width'), ('depth'), ('batch'), ('decay')) AS keys(key)"
        parts.append(row("attribute", attribute, f"range({RUNS}) AS jobs(job), {keys}"))
    return " UNION ALL ".join(parts)


def row(record: str, values: dict[str, str], source: str) -> str:
    filled = {"record": f"'{record}'", **values}
    columns = ", ".join(f'({filled.get(column.name, "NULL")})::{column.type} AS "{column.name}"' for column in COLUMNS)
    return f"SELECT {columns} FROM {source}"


def loose_rows(job: int) -> Iterator[Row]:
    work: Row = {
        "seq": job, "recorded_at": MOMENT, "store": "runs", "run": f"run-{job % RUNS:03d}",
        "step": job // RUNS * 1000, "checkpoint_id": f"{job:024x}", "model": "", "over": "checkpoint", "version": 1,
        "options_hash": "0123456789abcdef", "dtype": "float32", "device": "cpu", "probe": "", "seed": 0,
    }  # fmt: skip
    for plugin, metric in PLUGINS.items():
        same = {**work, "plugin": plugin, "basis": f"basis-{plugin}"}
        identity = f"{plugin[:8]:x>8}{job:016x}"
        yield {
            **same,
            "record": "outcome",
            "identity": identity,
            "status": "ok",
            "reason": "",
            "attempt": 1,
            "readings": PARTS,
        }
        for part in range(PARTS):
            found: Row = {"metric": metric, "part": f"layer.{part}", "depth": part, "value": part / 7, "status": "ok"}
            yield {**same, "record": "reading", "kind": "Linear", "group": "", "split": "", "unit": "weight", **found}


if __name__ == "__main__":
    main()
