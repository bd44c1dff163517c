"""What holds for every test."""

import os
from collections.abc import Iterator

import pytest

from sounding.config import settings
from sounding.keeping import drawers


@pytest.fixture(scope="session", autouse=True)
def power_that_does_not_fail() -> Iterator[None]:
    """No test cuts the power; waiting for the disk would be half the time of those that publish a lot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def runs_that_are_soon_put_away() -> Iterator[None]:
    """Every test with two runs has one of them packed and unpacked, as a store of thousands has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawers, "MOST_OPEN", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def workers_of_one_thread() -> Iterator[None]:
    """Beside other tests: threads that wait for one of their own, which has no core, burn those of everybody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "cores", lambda: 1)
        yield
