"""Schedules: sets of steps that do not depend on which other checkpoints there are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sounding.errors import SoundingError
from sounding.schedule import parse_schedule


def wanted(text: str, steps: range, last: int | None = None) -> list[int]:
    schedule = parse_schedule(text)
    return [step for step in steps if schedule.wants(step, steps[0], last)]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("all", list(range(1, 13))),
        ("every 5", [5, 10]),
        ("every 1_0", [10]),
        (" every  4 , every 6 ", [4, 6, 8, 12]),
        ("log2", [1, 2, 4, 8]),
        ("first", [1]),
        ("last", []),
        ("first,last", [1]),
        ("log2, every 6", [1, 2, 4, 6, 8, 12]),
        ("last, all", list(range(1, 13))),
    ],
)
def test_the_steps_of_a_growing_run(text: str, steps: list[int]):
    assert wanted(text, range(1, 13)) == steps


def test_the_last_step_is_known_once_the_run_no_longer_grows():
    assert wanted("first,last", range(1, 13), last=12) == [1, 12]


def test_step_zero_belongs_to_every_regular_schedule():
    assert all(parse_schedule(text).wants(0, 0, None) for text in ("every 7", "log2", "first", "all"))


@given(st.integers(1, 10**6), st.integers(0, 10**9))
def test_every_means_multiples(every: int, step: int):
    assert parse_schedule(f"every {every}").wants(step, 0, None) == (step % every == 0)


@given(st.integers(1, 2**60))
def test_log2_means_powers_of_two(step: int):
    assert parse_schedule("log2").wants(step, 0, None) == (bin(step).count("1") == 1)


@pytest.mark.parametrize("text", ["", "sometimes", "every", "every 0", "every -5", "every 1.5", "every ²", "all,", "5"])
def test_what_is_not_understood_is_named_with_what_would_be(text: str):
    with pytest.raises(SoundingError, match=r'expected "all", "every N"') as refusal:
        parse_schedule(text)
    assert repr(text) in str(refusal.value)
