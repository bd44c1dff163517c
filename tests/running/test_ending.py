"""Told to end: what ends within the grace is kept, the rest is returned, and a second word ends it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from making import task_on
from running.shop import NORM, Shop

from sounding.records import Ending
from sounding.running.ending import Told, drain, until_told


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def told() -> Iterator[Told]:
    heard = Told()
    heard.hear(signal.SIGTERM)
    yield heard
    heard.close()


def clock(*times: float) -> Iterator[float]:
    yield from times
    pytest.fail("the grace was over, and still there was waiting")


def test_a_job_that_ends_within_the_grace_is_kept(shop: Shop, told: Told):
    task = task_on(shop.known, NORM)
    shop.begin(1, task)
    shop.finish(task, 1)
    assert (
        drain(shop.crew, lambda now: list(shop.crew.poll(now)), told, 10.0, clock=iter(clock(0, 1, 2)).__next__) == []
    )
    shop.crew.stop()
    (ended,) = shop.outcomes()
    assert (ended.ending, ended.attempt) == (Ending.OK, 1)
    assert shop.leftovers() == []


def test_a_job_that_takes_longer_is_returned_and_counts_as_no_attempt(shop: Shop, told: Told):
    task = task_on(shop.known, NORM)
    shop.begin(1, task)
    (returned,) = drain(
        shop.crew, lambda now: list(shop.crew.poll(now)), told, 10.0, clock=iter(clock(0, 9, 9.5, 11)).__next__
    )
    assert returned.tasks == (task,)
    shop.crew.stop()
    assert (shop.outcomes(), shop.leftovers()) == ([], [])


def test_told_twice_it_waits_for_nothing(shop: Shop, told: Told):
    shop.begin(1, task_on(shop.known, NORM))
    told.hear(signal.SIGTERM)
    (returned,) = drain(shop.crew, lambda now: pytest.fail("waited"), told, 10.0)
    assert returned.checkpoint == shop.known


def test_a_signal_wakes_whoever_waits_and_the_old_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with until_told() as heard:
        assert (heard.to_end, heard.at_once) == (False, False)
        assert wait([heard.fileno()], 0) == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert wait([heard.fileno()], 20) == [heard.fileno()]
        assert (heard.to_end, heard.at_once) == (True, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert heard.at_once
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def look() -> None:
        with until_told():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
