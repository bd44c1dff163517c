"""The heartbeat over a daemon's life: from the lock on, and to the word it dies with."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sounding.errors import SoundingError
from sounding.running.pulse import Pulse, TakenOver
from sounding.running.status import Status, read_status, write_status

BEFORE = Status("node1", 1, "2026-05-01T00:00:00+00:00", "2026-05-01T00:00:00+00:00", "measuring", done=40, owed=3)


@pytest.fixture
def pulse(tmp_path: Path) -> Pulse:
    write_status(tmp_path, BEFORE)
    return Pulse(tmp_path, "background", lambda status: None)


def last(pulse: Pulse) -> Status:
    status = read_status(pulse.results)
    assert status is not None
    return status


def test_a_life_begins_with_the_work_that_others_did(pulse: Pulse):
    with pulse.life():
        now = last(pulse)
    assert (now.state, now.mode, now.pid) == ("starting", "background", os.getpid())
    assert (now.done, now.owed, now.started) == (40, 0, pulse.started.isoformat())


@pytest.mark.parametrize(
    ("error", "words"),
    [(SoundingError("workers cannot start: no."), "workers cannot start: no."), (KeyError("x"), "KeyError: 'x'")],
)
def test_what_kills_the_daemon_is_its_last_word(pulse: Pulse, error: Exception, words: str):
    def live() -> None:
        with pulse.life():
            pulse.beat(replace(last(pulse), state="measuring", done=41))
            raise error

    with pytest.raises(type(error)):
        live()
    assert (last(pulse).state, last(pulse).message, last(pulse).done) == ("died", words, 41)


def test_whose_results_were_taken_over_leaves_the_heartbeat_to_the_other(pulse: Pulse):
    def live() -> None:
        with pulse.life():
            write_status(pulse.results, BEFORE)
            raise TakenOver("gone")

    with pytest.raises(TakenOver):
        live()
    assert last(pulse) == BEFORE


def test_a_heartbeat_that_cannot_be_written_is_still_reported(tmp_path: Path):
    heard: list[str] = []
    pulse = Pulse(tmp_path / "missing", "foreground", lambda status: heard.append(status.state))
    with pulse.life():
        pulse.beat(replace(BEFORE, state="watching"))
    assert heard == ["starting", "watching"]
