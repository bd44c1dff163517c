"""The bell: rings are never lost, and events name the directories in which something happened."""

import logging
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
)

from sounding.seeing import watch as watching
from sounding.seeing.watch import Bell, Watch

DEADLINE = 20.0  # seconds; only a failing test waits so long


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def rings(bell: Bell, within: float = 0.0) -> bool:
    return bool(select.select([bell.fileno()], [], [], within)[0])


def heard(bell: Bell, expected: str) -> set[str]:
    """Everything named until `expected` is."""
    found: set[str] = set()
    while expected not in found:
        assert rings(bell, DEADLINE), f"{expected} was never named, only {found}"
        found |= bell.answer()
    return found


def test_a_bell_nobody_rang_is_silent(bell: Bell):
    assert not rings(bell)
    assert bell.answer() == frozenset()


def test_an_answer_takes_every_ring_since_the_last(bell: Bell):
    bell.ring(["/a"])
    bell.ring()
    bell.ring(["/b", "/a"])
    assert rings(bell)
    assert bell.answer() == {"/a", "/b"}
    assert not rings(bell)
    assert bell.answer() == frozenset()
    bell.ring(["/c"])
    assert rings(bell)
    assert bell.answer() == {"/c"}


def test_more_rings_than_a_pipe_holds_are_no_harm(bell: Bell):
    for number in range(70_000):
        bell.ring([str(number % 10)])
    assert bell.answer() == {str(number) for number in range(10)}
    assert not rings(bell)


def test_no_ring_is_lost_between_two_threads(bell: Bell):
    names = {str(number) for number in range(2000)}

    def ring() -> None:
        for name in sorted(names):
            bell.ring([name])

    thread = threading.Thread(target=ring)
    thread.start()
    heard_names: set[str] = set()
    while heard_names < names:
        assert rings(bell, DEADLINE)
        heard_names |= bell.answer()
    thread.join()


def test_closing_gives_the_descriptors_back():
    bell = Bell()
    number = bell.fileno()
    bell.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (FileClosedEvent("/runs/a/ckpt_1.pt"), {"/runs/a"}),
        (FileClosedEvent(b"/runs/a/ckpt_1.pt"), {"/runs/a"}),
        (FileDeletedEvent("/runs/a/ckpt_1.pt"), {"/runs/a"}),
        (FileMovedEvent("/runs/tmp/x", "/runs/a/ckpt_1.pt"), {"/runs/tmp", "/runs/a"}),
        (DirCreatedEvent("/runs/a"), {"/runs", "/runs/a"}),
        (DirMovedEvent("/runs/a.tmp", "/runs/a"), {"/runs", "/runs/a.tmp", "/runs/a"}),
    ],
)
def test_an_event_names_the_directories_to_list_again(bell: Bell, event: FileSystemEvent, named: set[str]):
    bell.on_any_event(event)
    assert bell.answer() - {""} == named


def test_real_events_name_the_directory_of_a_file_however_it_came(bell: Bell, tmp_path: Path):
    store = tmp_path / "runs"
    (store / "a").mkdir(parents=True)
    watch = Watch(bell)
    try:
        assert watch.add(store) == ""
        assert watch.add(store) == ""
        (store / "a" / "ckpt_1.pt").write_text("x")
        heard(bell, str(store / "a"))
        (tmp_path / "staging").mkdir()
        (tmp_path / "staging" / "ckpt_2.pt").write_text("x")
        (tmp_path / "staging").rename(store / "b")
        heard(bell, str(store / "b"))
        (store / "b" / "ckpt_3.pt").write_text("x")
        heard(bell, str(store / "b"))
    finally:
        watch.close()


def test_a_store_that_is_not_there_yet_is_watched_when_it_comes(bell: Bell, tmp_path: Path):
    watch = Watch(bell)
    try:
        assert watch.add(tmp_path / "runs") == ""
        (tmp_path / "runs").mkdir()
        assert watch.add(tmp_path / "runs") == ""
        (tmp_path / "runs" / "ckpt_1.pt").write_text("x")
        heard(bell, str(tmp_path / "runs"))
    finally:
        watch.close()


def test_a_system_that_grants_no_events_is_asked_once_and_its_reason_is_kept(
    bell: Bell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    class Refusing:
        def start(self) -> None:
            asked.append("start")

        def schedule(self, *anything: object, **more: object) -> None:
            asked.append("schedule")
            raise OSError(28, "inotify watch limit reached")

        def stop(self) -> None:
            asked.append("stop")

        def join(self) -> None:
            asked.append("join")

    monkeypatch.setattr(watching, "Observer", Refusing)
    watch = Watch(bell)
    for _ in range(3):
        reason = watch.add(tmp_path)
        assert reason == (
            f"no file events for {tmp_path} (inotify watch limit reached); it is scanned on a timer instead"
        )
    watch.close()
    assert asked == ["start", "schedule", "stop", "join"]


def test_a_queue_that_overflowed_is_heard_and_asked_of_once(bell: Bell, tmp_path: Path):
    """As the kernel says it: an event of its own, which watchdog tells nobody but its log."""
    inotify = pytest.importorskip("watchdog.observers.inotify_c")
    watch = Watch(bell)
    try:
        assert watch.add(tmp_path) == ""
        assert not bell.has_lost()
        overflow = inotify.InotifyEvent(-1, inotify.InotifyConstants.IN_Q_OVERFLOW, 0, b"")
        inotify.InotifyFD.get_instance().handle_event(overflow)
        assert rings(bell, DEADLINE)
        bell.answer()
        assert (bell.has_lost(), bell.has_lost()) == (True, False)
        (tmp_path / "ckpt_1.pt").write_text("x")
        heard(bell, str(tmp_path))
    finally:
        watch.close()
    logging.getLogger("watchdog.observers.inotify_c").warning("said after the end")
    assert not bell.has_lost()
