"""A wall clock that is set makes nothing old before its time."""

from datetime import timedelta

import pytest
from making import START

from sounding.running.drift import Drift

GRACE = 600.0


def trusted(drift: Drift, now: float, ahead: float = 0.0) -> bool:
    return drift.is_trusted(now, START + timedelta(seconds=now + ahead), GRACE)


def test_a_clock_that_goes_on_is_trusted_from_the_first_look():
    drift = Drift()
    assert all(trusted(drift, now, ahead=now / 100) for now in range(0, 3600, 10)), "corrected little by little, too"


@pytest.mark.parametrize("jump", [86400.0, -86400.0, 61.0])
def test_a_clock_that_was_set_is_trusted_again_after_the_grace(jump: float):
    drift = Drift()
    assert trusted(drift, 100)
    assert not trusted(drift, 110, ahead=jump)
    assert not trusted(drift, 709.9, ahead=jump)
    assert trusted(drift, 710, ahead=jump)


def test_every_jump_begins_the_grace_anew():
    drift = Drift()
    assert trusted(drift, 0)
    assert not trusted(drift, 10, ahead=86400)
    assert not trusted(drift, 500)
    assert not trusted(drift, 1099)
    assert trusted(drift, 1100)
