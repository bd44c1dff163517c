"""The daemon's account of itself, read whole or not at all."""

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sounding.errors import SoundingError
from sounding.running.status import (
    HEARTBEAT,
    Running,
    Status,
    StoreStatus,
    age_seconds,
    duration_text,
    read_status,
    write_status,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
STATUS = Status(
    host="lab",
    pid=7,
    started=NOW.isoformat(),
    heartbeat=NOW.isoformat(),
    state="measuring",
    stores=(StoreStatus("runs", "/lab/runs", 1, 2, 3, 4, 5, "no such directory"), StoreStatus("b", "/b")),
    running=(Running("a", 100, ("loss", "norm"), NOW.isoformat()), Running("b", 1, (), NOW.isoformat())),
    owed=6,
    waiting=1,
    done=8,
    skipped=9,
    failed=10,
    refusals=("twin: used twice",),
    recipe_problems=("runs/a: Größe",),
    message="the disk is full",
)


@pytest.mark.parametrize("status", [STATUS, Status("lab", 7, NOW.isoformat(), NOW.isoformat(), "starting")])
def test_what_is_written_is_read(tmp_path: Path, status: Status):
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert [path.name for path in tmp_path.iterdir()] == [HEARTBEAT]


def test_without_a_daemon_there_is_no_status(tmp_path: Path):
    assert read_status(tmp_path) is None
    assert read_status(tmp_path / "missing") is None


def test_a_reader_never_sees_half_of_it(tmp_path: Path):
    short = Status("lab", 1, NOW.isoformat(), NOW.isoformat(), "watching")
    long = Status("lab", 2, NOW.isoformat(), NOW.isoformat(), "watching", message="x" * 200_000)
    write_status(tmp_path, short)
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            write_status(tmp_path, long if number % 2 else short)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        status = read_status(tmp_path)
        assert status in (short, long)
        seen.add(status)
    writer.join()
    assert read_status(tmp_path) == long
    assert seen


@pytest.mark.parametrize("change", [lambda fields: fields.pop("stores"), lambda fields: fields.update(moon="full")])
def test_the_heartbeat_of_another_version_is_said_to_be_one(tmp_path: Path, change: object):
    write_status(tmp_path, STATUS)
    fields = json.loads((tmp_path / HEARTBEAT).read_text())
    change(fields)  # type: ignore[operator]
    (tmp_path / HEARTBEAT).write_text(json.dumps(fields))
    with pytest.raises(SoundingError, match="heartbeat of a daemon of this version") as refusal:
        read_status(tmp_path)
    assert str(tmp_path / HEARTBEAT) in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"stores": 3}'])
def test_a_heartbeat_that_a_crash_left_in_pieces_is_named(tmp_path: Path, text: str):
    (tmp_path / HEARTBEAT).write_text(text)
    with pytest.raises(SoundingError, match="sounding watch"):
        read_status(tmp_path)


def test_age_is_counted_from_the_last_heartbeat():
    assert age_seconds(STATUS, NOW + timedelta(minutes=2)) == 120


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.4, "59 s"), (60, "1 min"), (12_000, "3 h 20 min"), (360_000, "4 d 4 h")]
)
def test_durations(seconds: float, text: str):
    assert duration_text(seconds) == text
