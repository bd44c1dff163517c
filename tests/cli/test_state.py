"""`status`, `why` and `redo`."""

import json
import os
import shutil
from collections import namedtuple
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cli.lab import Lab

from sounding.running.lock import LOCK, Lock
from sounding.running.status import Mode, Running, Status, StoreStatus, write_status


def busy(state: str = "measuring") -> Status:
    now = datetime.now(UTC)
    return Status(
        host="node7",
        pid=4242,
        started=(now - timedelta(hours=2)).isoformat(),
        heartbeat=(now - timedelta(minutes=5)).isoformat(),
        state=state,
        stores=(StoreStatus("runs", "/lab/runs", 2, 5, 1, 0, 0),),
        running=(Running("fast", 300, ("loss", "weight_norm"), (now - timedelta(seconds=90)).isoformat()),),
        owed=7,
        waiting=2,
        done=40,
        skipped=1,
        failed=3,
        refusals=("broken: no module named jax",),
        message="trying again",
    )


@pytest.fixture
def beating(lab: Lab) -> Lab:
    write_status(lab.results, busy())
    return lab


def test_status_without_a_daemon_gives_its_last_heartbeat_and_the_size_of_the_results(beating: Lab) -> None:
    text = beating.run("status")
    assert "not running; the last one, in the foreground, ended without saying so" in text
    assert "pid 4242 on node7" in text
    assert "5 min ago" in text
    size = sum(path.stat().st_size for path in (beating.results / "jobs").iterdir())
    assert f"{size / 1000:.0f} kB in" in text
    assert "measuring fast" not in text


def test_status_with_a_live_daemon_shows_stores_owed_running_and_failed(beating: Lab) -> None:
    with Lock(beating.results):
        text = beating.run("status")
    for expected in (
        "measuring, in the foreground",
        "pid 4242 on node7",
        "7 owed (2 waiting to be tried again) · 40 done · 1 skipped · 3 failed",
        "measuring fast @ 300: loss, weight_norm (1 min)",
        "broken: no module named jax",
        "trying again",
    ):
        assert expected in text
    assert text.splitlines()[-1].split() == ["runs", "2", "5", "1", "0", "0"]


def test_status_says_which_stores_are_scanned_only(lab: Lab) -> None:
    stores = (StoreStatus("runs", "/lab/runs"), StoreStatus("far", "/net/runs", scanned="nfs4"))
    write_status(lab.results, replace(busy(), stores=stores))
    (line,) = [line for line in lab.run("status").splitlines() if line.startswith("scanned")]
    assert " ".join(line.split()) == "scanned far on a network file system (nfs4): on a timer, without file events"
    assert [store["scanned"] for store in json.loads(lab.run("status", "--json"))["daemon"]["stores"]] == ["", "nfs4"]


def test_status_before_any_daemon(empty_lab: Lab) -> None:
    assert "none has run here yet; `sounding start` starts one" in empty_lab.run("status")
    assert not empty_lab.results.exists()


def test_status_of_a_daemon_that_was_killed_does_not_say_that_it_stopped(beating: Lab) -> None:
    assert "ended without saying so" in beating.run("status")
    write_status(beating.results, busy("stopped"))
    assert "ended without saying so" not in beating.run("status")


LABELS = ["daemon", "process", "since", "heartbeat", "results", "work"]


def labels(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line and not line[0].isspace()]


@pytest.mark.parametrize("mode", ["foreground", "background"])
def test_status_tells_the_same_story_however_the_daemon_was_started(lab: Lab, mode: Mode) -> None:
    status = replace(busy(), mode=mode, refusals=(), message="")
    write_status(lab.results, status)
    with Lock(lab.results):
        alive, alive_plain = lab.run("status"), lab.json("status")
    dead, dead_plain = lab.run("status"), lab.json("status")
    assert f"measuring, in the {mode}" in alive
    assert f"not running; the last one, in the {mode}, ended without saying so" in dead
    for text in (alive, dead):
        assert labels(text)[:6] == LABELS
        assert "pid 4242 on node7" in text
        assert f"{status.started[:10]} {status.started[11:19]} UTC, 2 h 0 min ago" in text
        assert "5 min ago" in text
    assert (alive_plain["alive"], dead_plain["alive"]) == (True, False)
    assert (alive_plain["lock"], dead_plain["lock"]) == ("held", "free")
    assert alive_plain["daemon"] == dead_plain["daemon"] == json.loads(json.dumps(asdict(status)))


def test_status_has_the_same_fields_where_no_daemon_ever_ran(empty_lab: Lab) -> None:
    assert labels(empty_lab.run("status")) == LABELS[:5]
    plain = empty_lab.json("status")
    assert plain["alive"] is False
    assert list(plain["daemon"]) == list(asdict(busy()))
    assert set(plain["daemon"].values()) == {None}


def test_status_names_the_machine_that_holds_the_results_and_may_be_gone(beating: Lab) -> None:
    there = {"host": "node9", "pid": 3, "since": "2026-05-01T00:00:00+00:00", "boot": "another", "born": "7"}
    (beating.results / LOCK).write_text(json.dumps(there))
    assert "held by host node9" in beating.run("status")
    assert beating.json("status")["lock"] == "elsewhere"


def test_status_says_when_the_disk_is_read_only(beating: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12, total=10**12))
    assert "read-only" in beating.run("status")
    assert beating.json("status")["disk"]["read_only"] is True


def test_status_says_when_the_disk_is_nearly_full(beating: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 5 * 10**8, 5 * 10**8))
    assert "nearly full: 500 MB left" in beating.run("status")
    assert beating.json("status")["disk"]["nearly_full"] is True
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**8, 9 * 10**8))
    assert "nearly full" not in beating.run("status")


def test_status_as_json(beating: Lab) -> None:
    found = beating.json("status")
    assert found["alive"] is False
    assert (found["daemon"]["owed"], found["daemon"]["running"][0]["step"]) == (7, 300)
    assert found["results"]["path"] == str(beating.results)


def test_why_names_the_verdict_of_a_checkpoint_that_is_not_whole(lab: Lab) -> None:
    text = lab.run("why", "slow@200")
    assert "slow @ 200" in text
    assert "pending: 6 of 8 shards" in text
    assert lab.json("why", "slow@200")[0]["verdict"] == "pending"


def test_why_of_an_unknown_checkpoint_says_what_would_name_one(lab: Lab) -> None:
    assert "RUN@STEP" in lab.error("why", "nobody@3")


def test_redo_leaves_a_request_and_says_that_no_daemon_runs(lab: Lab) -> None:
    text = lab.run("redo", "--plugin", "loss", "--run", "fast", "--step", "100")
    assert "asked for again: plugin loss, run fast, step 100 (1 outcome)" in text
    assert "no daemon is running" in text
    (request,) = (lab.results / "requests").glob("*.json")
    assert json.loads(request.read_text()) == {"plugin": "loss", "run": "fast", "step": 100, "checkpoint": None}


@pytest.mark.parametrize(
    ("asked", "words"),
    [(["--plugin", "lsos"], "'lsos' is unknown, 'loss' is not"), (["--plugin", "loss", "--step", "7"], "loss")],
)
def test_redo_of_what_was_never_recorded_is_refused(lab: Lab, asked: list[str], words: str) -> None:
    text = lab.error("redo", *asked)
    assert "nothing recorded matches" in text
    assert words in text
    assert not list((lab.results / "requests").glob("*.json"))


def test_redo_of_nothing_is_wrong_usage(lab: Lab) -> None:
    assert "--plugin" in lab.error("redo", code=2)
