"""Crossings of planted growth, with intervals that hold as often as they say."""

import math

import numpy as np
import pytest

from sounding.extrapolation import fit_line, growth, student_quantile

TIMES = np.arange(100.0, 2001.0, 50.0)
RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize(("free", "value"), [(3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)])
def test_students_quantiles_are_those_of_the_tables(free: int, value: float):
    assert student_quantile(0.95, free) == pytest.approx(value, rel=5e-3)


def test_a_line_is_that_of_least_squares():
    y = 2.0 - 0.3 * TIMES + RANDOM.normal(size=len(TIMES))
    line = fit_line(TIMES, y)
    slope, start = np.polyfit(TIMES, y, 1)
    assert line.slope == pytest.approx(slope)
    assert line.mean - line.slope * line.centre == pytest.approx(start)
    assert line.squares == pytest.approx(float(((y - start - slope * TIMES) ** 2).sum()))


@pytest.mark.parametrize(("grown", "level"), [("exponential", 1000.0), ("power", 100.0)])
def test_growth_without_noise_crosses_where_it_was_planted(grown: str, level: float):
    values = 5 * np.exp(TIMES / 800) if grown == "exponential" else 5 * (TIMES / 100) ** 0.7
    planted = 800 * math.log(level / 5) if grown == "exponential" else 100 * (level / 5) ** (1 / 0.7)
    found = growth(TIMES, values, level)
    assert found.rises
    assert (found.at, found.low, found.high) == pytest.approx((planted, planted, planted), rel=1e-6)
    if grown == "power":
        assert found.exponent == pytest.approx(0.7)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_intervals_hold_about_as_often_as_they_say(correlation: float):
    held = told = 0
    planted = 1000 * math.log(200)
    times = np.arange(10.0, 2001.0, 10.0)
    for _ in range(200):
        shocks = RANDOM.normal(size=len(times)) * math.sqrt(1 - correlation**2)
        noise = np.zeros(len(times))
        for place, shock in enumerate(shocks):
            noise[place] = shock + correlation * (noise[place - 1] if place else 0.0)
        found = growth(times, 5 * np.exp(times / 1000 + 0.1 * noise), 1000.0)
        if found.at is not None and found.low is not None and found.high is not None:
            told += 1
            held += found.low <= planted <= found.high
    assert told == 200
    assert held / told > 0.9


def test_what_does_not_grow_is_seldom_said_to():
    rises = 0
    for _ in range(200):
        found = growth(TIMES, np.exp(0.1 * RANDOM.normal(size=len(TIMES))), 10.0)
        rises += found.rises
    assert rises / 200 < 0.06  # two in forty by chance go up or down
    falling = growth(TIMES, 3 * np.exp(-TIMES / 500 + 0.1 * RANDOM.normal(size=len(TIMES))), 10.0)
    assert (falling.falls, falling.rises, falling.at) == (True, False, None)


def test_neither_model_is_believed_of_what_saturates():
    # Residuals of a bent curve follow each other: few of them are independent, and nothing is told.
    values = 100 * (1 - np.exp(-TIMES / 200))
    found = growth(TIMES, values, 1000.0)
    assert (found.rises, found.at) == (False, None)


def test_too_few_points_say_nothing():
    few = growth(TIMES[:4], TIMES[:4] + RANDOM.normal(size=4), 10_000.0)
    assert (few.rises, few.falls, few.at, few.exponent_error) == (False, False, None, math.inf)
