"""Jumps and rhythms planted into series, and the two-dimensional network whose threshold is known."""

import math

import numpy as np
import pytest

from sounding.periods import Jump, destabilisations, find_jumps, rhythm_of


def sawtooth(periods: int, rate: float, period: int, rise: int = 5) -> np.ndarray:
    """Logs of a norm that decays at a rate and jumps back within so many updates, one value for each update."""
    down = -rate * np.arange(period - rise)
    up = np.linspace(down[-1], 0.0, rise, endpoint=False)
    return np.tile(np.concatenate([down, up]), periods)


def test_jumps_are_where_they_were_planted():
    values = sawtooth(4, 1e-3, 500)
    jumps = find_jumps(values, 0.05)
    assert [jump.bottom for jump in jumps] == [494, 994, 1494, 1994]
    assert [jump.top for jump in jumps] == [500, 1000, 1500, 1999]
    assert [jump.start for jump in jumps] == [0, 500, 1000, 1500]
    assert [jump.over for jump in jumps] == [True, True, True, False]


def test_noise_smaller_than_the_threshold_makes_no_jump_and_hides_none():
    noise = 0.005 * np.random.default_rng(0).standard_normal(2000)
    assert find_jumps(noise, 0.05) == []
    found = find_jumps(sawtooth(4, 1e-3, 500) + noise, 0.05)
    assert [round(jump.bottom, -2) for jump in found] == [500, 1000, 1500, 2000]


def test_a_rise_at_the_beginning_follows_no_decline():
    assert find_jumps([0.0, 1.0, 2.0, 1.0], 0.5) == []
    assert find_jumps([0.0, 1.0, 0.0, 1.0, 0.0], 0.5) == [Jump(1, 2, 3, True)]
    assert find_jumps([], 0.5) == []


def test_decay_alone_predicts_its_own_duration_and_half_of_it_at_half_the_pace():
    times = np.arange(2000.0)
    norms = np.exp(sawtooth(4, 1e-3, 500))
    full = destabilisations(times, norms, np.full(2000, 1e-3), 0.05)
    assert [each.predicted for each in full] == pytest.approx([494] * 4)
    assert [each.pace for each in full] == pytest.approx([1.0] * 4)
    assert [each.length for each in full[:3]] == [6.0] * 3
    half = destabilisations(times, norms, np.full(2000, 2e-3), 0.05)
    assert [each.pace for each in half] == pytest.approx([0.5] * 4)
    unknown = destabilisations(times, norms, np.full(2000, np.nan), 0.05)
    assert all(math.isnan(each.pace) for each in unknown)


def test_rhythm():
    found = rhythm_of([0.0, 90.0, 200.0, 300.0])
    assert found is not None
    assert (found.mean, found.variation) == (100.0, pytest.approx(0.1))
    assert found.stderr == pytest.approx(10 / math.sqrt(3))
    assert rhythm_of([0.0, 10.0]) is None


def test_gradient_descent_in_two_dimensions_jumps_beyond_its_threshold():
    """f = αx²/(x²+y²) with decay λ: unstable once αη/|w|² exceeds 1, and stable again at the larger norm."""
    alpha, rate, decay = 1.0, 0.05, 0.02
    x, y, norms = 0.01, 1.0, []
    for _ in range(8000):
        norms.append(math.hypot(x, y))
        square = x * x + y * y
        gx, gy = 2 * alpha * x * y * y / square**2, -2 * alpha * x * x * y / square**2
        x, y = x - rate * (gx + decay * x), y - rate * (gy + decay * y)
        x += 1e-5  # as noise would, which gives the instability something to grow from
    found = destabilisations(np.arange(8000.0), np.array(norms), np.full(8000, rate * decay), 0.05)
    peaks = [rate * alpha / norms[each.jump.bottom] ** 2 for each in found]
    assert len(found) > 15
    assert min(peaks[2:]) > 1.0
    assert max(peaks[2:]) < 1.4
    rhythm = rhythm_of([each.begin for each in found[2:]])
    assert rhythm is not None
    assert rhythm.variation < 0.05
    assert float(np.mean([each.predicted for each in found[3:]])) == pytest.approx(rhythm.mean, rel=0.05)
