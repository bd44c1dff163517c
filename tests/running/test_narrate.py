"""What the log says of a daemon's life: each thing once, when it comes and when it goes."""

from dataclasses import replace

import pytest
from making import checkpoint, ended, sheet, task_on

from sounding.records import Ending, Job
from sounding.running.crew import Finished
from sounding.running.narrate import Narrator, say_finished
from sounding.running.status import Status, StoreStatus

STORE = StoreStatus("runs", "/lab/runs")
STATUS = Status("node7", 42, "2026-05-01", "2026-05-01", "watching", (STORE,))


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_life_is_told_from_its_beginning_to_its_end(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "sounding")
    narrator = Narrator()
    away = replace(STATUS, stores=(replace(STORE, problem="not mounted"),))
    for status in (
        replace(STATUS, state="starting"),
        replace(STATUS, state="measuring"),
        STATUS,
        STATUS,
        away,
        away,
        replace(STATUS, message="the disk is full"),
        replace(STATUS, state="stopping"),
        replace(STATUS, state="stopped", message="returned: a @ 7"),
    ):
        narrator(status)
    assert said(caplog) == [
        ("INFO", "starting"),
        ("INFO", "pid 42 on node7 watches /lab/runs"),
        ("WARNING", "runs: not mounted"),
        ("WARNING", "the disk is full"),
        ("INFO", "no longer: runs: not mounted"),
        ("INFO", "told to stop; jobs under way may still end"),
        ("INFO", "no longer: the disk is full"),
        ("INFO", "stopped: returned: a @ 7"),
    ]


def test_a_job_is_told_by_what_was_measured_and_why_not(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "sounding")
    tasks = [task_on(checkpoint(7), sheet(name)) for name in ("norm", "loss", "rank")]
    results = (ended(tasks[0]), ended(tasks[1], Ending.SKIPPED), ended(tasks[2], Ending.FAILED, "rank raised: no"))
    job = Job(1, checkpoint(7), tuple(tasks))
    say_finished(Finished(job, results))
    say_finished(Finished(job, (), suspects=True))
    assert said(caplog) == [
        ("INFO", "measured a @ 7 in 0 s: norm, loss"),
        ("WARNING", "rank on a @ 7: failed, attempt 1: rank raised: no"),
        ("WARNING", "a worker died over a @ 7: each of norm, loss, rank is tried alone"),
    ]


def test_in_the_foreground_nothing_is_printed(capfd: pytest.CaptureFixture[str]):
    Narrator()(replace(STATUS, message="the disk is full"))
    assert capfd.readouterr() == ("", "")
