"""`start`, `stop` and `logs`: what they print and refuse; a whole life is lived in the tests of `running`."""

import json

import pytest
from cli.lab import Lab

from sounding.running import background
from sounding.running.background import Stopped
from sounding.running.lock import LOCK, Holder, Lock
from sounding.running.status import Running, Status, StoreStatus

SINCE = "2026-05-01T00:00:00+00:00"
HOLDER = Holder("node7", 42, SINCE)
LINES = "".join(f"2026-05-01T00:00:0{n}Z INFO    measured a @ {n}\n" for n in range(5))


@pytest.fixture
def talking(lab: Lab) -> Lab:
    (lab.results / "daemon.log").write_text(LINES)
    return lab


def test_logs_shows_the_last_lines(talking: Lab) -> None:
    assert talking.run("logs") == LINES
    assert talking.run("logs", "-n", "2").splitlines() == LINES.splitlines()[-2:]
    assert talking.run("logs", "-n", "0") == ""


def test_logs_as_json(talking: Lab) -> None:
    assert talking.json("logs", "-n", "1") == [
        {"time": "2026-05-01T00:00:04Z", "level": "INFO", "text": "measured a @ 4"}
    ]
    assert "one of them" in talking.error("logs", "--json", "--follow", code=2)


def test_logs_follows_what_is_added(talking: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter([["added\n"], [], KeyboardInterrupt])

    def turn(seconds: float) -> None:
        new = next(turns)
        if not isinstance(new, list):
            raise new
        with (talking.results / "daemon.log").open("a") as log:
            log.writelines(new)

    monkeypatch.setattr("time.sleep", turn)
    assert talking.run("logs", "-n", "1", "--follow", code=130) == LINES.splitlines(keepends=True)[-1] + "added\n"


def test_logs_of_a_daemon_that_never_was_in_the_background(lab: Lab) -> None:
    assert "`sounding start` starts one" in lab.error("logs")


def test_start_is_refused_where_a_daemon_works(lab: Lab) -> None:
    with Lock(lab.results):
        assert "a daemon already works here: pid" in lab.error("start")


def test_stop_where_none_runs_says_so(empty_lab: Lab) -> None:
    assert empty_lab.run("stop") == "no daemon is running\n"


@pytest.mark.parametrize("state", ["stopped", "measuring"])
def test_stop_says_what_it_waited_for_and_what_happened(lab: Lab, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    busy = Status("node7", 42, SINCE, SINCE, "stopping", running=(Running("fast", 300, ("loss",), SINCE),))
    last = Status(
        "node7", 42, SINCE, SINCE, state, (StoreStatus("runs", "/x"),), owed=1, message="returned: fast @ 300"
    )

    def stop(results: object, timeout: float, progress: object) -> Stopped:
        assert (results, timeout) == (lab.results, 5.0)
        for seconds in (0.1, 1.2, 2.3):
            progress(HOLDER, busy, seconds)  # type: ignore[operator]
        return Stopped(HOLDER, 2.4, last)

    monkeypatch.setattr(background, "stop", stop)
    waited, ended, *more = lab.run("stop", "--timeout", "5").splitlines()
    assert waited.startswith("waiting for pid 42 on node7, measuring fast @ 300: loss (")
    assert ended.startswith("pid 42 on node7 stopped after 2 s") is (state == "stopped")
    assert "without saying so" in ended or state == "stopped"
    assert more == ["returned: fast @ 300", "1 owed · 0 done · 0 skipped · 0 failed"]


def test_forget_frees_what_a_machine_held_that_is_gone(lab: Lab) -> None:
    assert "nothing to forget" in lab.error("stop", "--forget")
    (lab.results / LOCK).write_text(json.dumps({"host": "node9", "pid": 3, "since": SINCE, "boot": "b", "born": "1"}))
    assert "stop --forget" in lab.error("stop")
    assert "forgot pid 3 on node9" in lab.run("stop", "--forget")
    with Lock(lab.results):
        pass
