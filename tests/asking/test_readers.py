"""A reader in another process while files are published, folded and deleted: never an error, never a wrong count."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sounding.keeping.results import ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import Row

ROWS = 7
DELETED, ANSWERS = 20, 10  # when as many were, enough has happened beside the reader
DEADLINE = 60.0  # seconds
READER = """
import json, sys, time
from sounding.asking.readonly import run_guarded
path = sys.argv[1]
print("ready", flush=True)
while sys.stdin.readline().strip() == "ask":
    start = time.monotonic()
    answer = run_guarded(path, "SELECT count(*), count(DISTINCT (step, part)), coalesce(sum(value), 0) FROM readings")
    print(json.dumps([start, time.monotonic(), *answer.rows[0]]), flush=True)
"""


def publish(results: ResultsDirectory, seq: int) -> None:
    work: Row = {"plugin": "p", "version": 1, "options_hash": "o", "basis": "b", "over": "checkpoint", "model": ""}
    same: Row = {"seq": seq, "store": "lab", "run": "a", "step": seq, "checkpoint_id": f"c{seq}", **work}
    readings: list[Row] = [{**same, "record": "reading", "part": str(part), "value": 1.0} for part in range(ROWS)]
    tmp = results.tmp / tmp_name("e", seq)
    write_rows(tmp, [*readings, {**same, "record": "outcome", "identity": f"w{seq}", "status": "ok"}])
    results.publish(tmp, seq)


def test_a_reader_sees_every_reading_once_at_every_moment(tmp_path: Path):
    # The grace is short beside ten minutes, and long beside a query here, so that much is deleted in the time given.
    results = ResultsDirectory(tmp_path, grace=timedelta(seconds=2), most_loose=4)
    results.prepare()
    published: list[tuple[float, float]] = []  # when the publication of the n-th file began and when it was over
    answers: list[list[float]] = []
    deleted = 0
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        start = time.monotonic()
        while deleted <= DELETED or len(answers) <= ANSWERS:
            assert time.monotonic() - start < DEADLINE, (deleted, len(answers))
            reader.stdin.write("ask\n")
            reader.stdin.flush()
            for _ in range(5):
                began = time.monotonic()
                publish(results, len(published))
                published.append((began, time.monotonic()))
            results.fold(datetime.now(UTC))
            deleted += len(results.delete_replaced(datetime.now(UTC)))
            line = reader.stdout.readline()
            assert line, "the reader died"
            answers.append(json.loads(line))
        reader.stdin.close()
        assert reader.wait(30) == 0
    for asked, answered, count, distinct, total in answers:
        fewest = sum(over <= asked for _, over in published) * ROWS
        most = sum(began <= answered for began, _ in published) * ROWS
        assert fewest <= count <= most
        assert count == distinct == total
        assert count % ROWS == 0
    counts = [answer[2] for answer in answers]
    assert counts == sorted(counts)
