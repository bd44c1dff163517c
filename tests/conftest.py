"""What holds for every test."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def power_that_does_not_fail() -> Iterator[None]:
    """No test cuts the power; waiting for the disk would be half the time of those that publish a lot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
