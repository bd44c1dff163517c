"""Spikes planted into logs are found where they are, as high and as long as they are, and no others."""

from typing import Any

import numpy as np
import pytest

from sounding import Reading, Skip
from sounding.passes import Course, Line
from sounding.testing import Trial
from sounding_plugins.spikes import _trailing_medians, spikes

SEED = 3


def falling(count: int = 2000, spacing: float = 1.0, noise: float = 0.02) -> tuple[Any, Any]:
    """A loss that falls as a power law with lognormal noise."""
    updates = spacing * np.arange(1, count + 1)
    loss = 10 * updates**-0.3 * np.exp(noise * np.random.default_rng(SEED).standard_normal(count))
    return updates, loss


def told(findings: Any, metric: str, part: str = "loss") -> list[Any]:
    return [each.value for each in findings if isinstance(each, Reading) and (each.metric, each.part) == (metric, part)]


def skips(findings: Any) -> dict[str, str]:
    return {each.part: each.reason for each in findings if isinstance(each, Skip)}


def test_planted_spikes_are_found_and_no_others(sounding_plugin: Trial):
    updates, loss = falling()
    clean = loss.copy()
    loss[600:605] *= [1.5, 3.0, 2.0, 1.6, 1.3]
    loss[1500] *= 1.4
    found = sounding_plugin(spikes, logs={"loss": (updates, loss)})
    assert told(found, "count") == [2]
    assert told(found, "first") == [601, 1501]
    for row, height, peak in ((600, told(found, "height")[0], 601), (1500, told(found, "height")[1], 1500)):
        median = np.median(clean[row - 200 : row])
        assert height == pytest.approx(loss[peak] / median, rel=1e-12)
    # 1.3 times the trend is still above one standard deviation over the median of the last 200; the next row is not
    assert told(found, "recovery")[0] in (5, 6)
    assert told(found, "recovery")[1] in (1, 2)
    assert told(found, "nonfinite") == [0]
    assert told(found, "spacing") == [1.0]


def test_the_z_score_is_that_of_the_median_and_its_deviation(sounding_plugin: Trial):
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0] * 40 + [60.0])
    found = sounding_plugin(spikes, logs={"loss": (np.arange(201.0), values)})
    # median 3, median absolute deviation 1
    assert told(found, "height_z") == [pytest.approx(57 / 1.4826)]
    assert told(found, "height") == [20.0]
    (recovery,) = [each for each in found if isinstance(each, Reading) and each.metric == "recovery"]
    assert (recovery.value, recovery.quality) == (0.0, "unresolved")


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_heavy_tails_and_noise_alone_are_no_spikes(sounding_plugin: Trial, factor: float):
    updates, loss = falling(20_000, noise=0.02 * factor)
    assert told(sounding_plugin(spikes, logs={"loss": (updates, loss)}), "count") == [0]


def test_a_rise_must_pass_both_thresholds(sounding_plugin: Trial):
    flat = np.full(300, 2.0) + 1e-6 * np.random.default_rng(SEED).standard_normal(300)
    flat[250] = 2.01  # thousands of deviations, half a per cent
    assert told(sounding_plugin(spikes, logs={"loss": (np.arange(300.0), flat)}), "count") == [0]
    noisy = 2 * np.exp(0.3 * np.random.default_rng(SEED).standard_normal(300))
    noisy[250] = 3.0  # one and a half times, one deviation
    assert told(sounding_plugin(spikes, logs={"loss": (np.arange(300.0), noisy)}, z=8.0), "count") == [0]


def test_a_log_of_two_decimals_has_no_deviation_and_still_no_false_spikes(sounding_plugin: Trial):
    quantised = np.full(400, 0.05)
    quantised[100::7] = 0.06  # the last digit flips: a fifth more, yet one quantum
    found = sounding_plugin(spikes, logs={"loss": (np.arange(400.0), quantised)})
    assert told(found, "count") == [0]
    quantised[300] = 0.12
    found = sounding_plugin(spikes, logs={"loss": (np.arange(400.0), quantised)})
    assert told(found, "first") == [300.0]
    assert told(found, "height_z") == [pytest.approx(0.07 / (1.4826 * 0.005), rel=1e-6)]


def test_a_spike_that_never_ends_says_so(sounding_plugin: Trial):
    updates, loss = falling(500)
    loss[400:] += 5.0
    found = sounding_plugin(spikes, logs={"loss": (updates, loss)})
    assert told(found, "count") == [1]
    assert told(found, "recovery") == [99.0]
    assert [each.quality for each in found if isinstance(each, Reading) and each.metric == "recovery"] == ["unresolved"]


def test_gradient_norms_have_their_own_ratio_and_their_own_spikes(sounding_plugin: Trial):
    updates, loss = falling(600)
    norms = np.exp(0.1 * np.random.default_rng(1).standard_normal(600))
    norms[300] = 1.7
    norms[500] = 8.0
    found = sounding_plugin(spikes, logs={"grad_norm": (updates, norms), "train_loss": (updates, loss)}, z=3.0)
    assert told(found, "first", "grad_norm") == [501.0]
    assert told(found, "count", "train_loss") == [0]


def test_rows_that_are_not_finite_are_counted_and_left_out(sounding_plugin: Trial):
    updates, loss = falling(400)
    loss[[100, 200]] = np.nan, np.inf
    loss[300] *= 3
    found = sounding_plugin(spikes, logs={"loss": (updates, loss)})
    assert told(found, "nonfinite") == [2]
    assert told(found, "first") == [301.0]


def test_a_sparse_log_looks_further_back_for_its_rows(sounding_plugin: Trial):
    updates, loss = falling(100, spacing=500.0)
    loss[60] *= 2
    found = sounding_plugin(spikes, logs={"loss": (updates, loss)})
    assert told(found, "first") == [61 * 500.0]
    assert told(found, "spacing") == [500.0]


def test_negative_values_and_too_few_have_no_ratio(sounding_plugin: Trial):
    found = sounding_plugin(spikes, logs={"loss": (np.arange(50.0), np.linspace(1, -1, 50))})
    assert "negative" in skips(found)["loss"]
    found = sounding_plugin(spikes, logs={"loss": (np.arange(10.0), np.ones(10))})
    assert "more than 10" in skips(found)["loss"]


def test_without_a_log_it_falls_back_to_readings_and_says_what_that_is_worth(sounding_plugin: Trial):
    steps, values = np.arange(0, 4000, 100), np.full(40, 2.0)
    values[30] = 9.0
    updates = steps * 2.0
    found = sounding_plugin(
        spikes,
        history={
            ("loss.loss", "", "train"): Course(steps, updates, values),
            Line("gradient_norm.total"): Course(steps, np.full(40, np.nan), np.ones(40)),
        },
    )
    assert told(found, "first", "loss.loss (train)") == [6000.0], "in updates, where they are known"
    assert told(found, "spacing", "loss.loss (train)") == [200.0]
    assert told(found, "count", "gradient_norm.total") == [0]
    assert told(found, "spacing", "gradient_norm.total") == [100.0]
    assert set(skips(found)) == {"loss.loss (train)", "gradient_norm.total"}
    assert all("between sparse checkpoints are invisible" in reason for reason in skips(found).values())


def test_with_neither_it_says_what_is_missing(sounding_plugin: Trial):
    (skip,) = sounding_plugin(spikes, logs={"lr": ([1.0], [1.0])})
    assert isinstance(skip, Skip)
    assert "no training log" in skip.reason


def test_trailing_medians_against_the_plain_ones():
    random = np.random.default_rng(0)
    updates = np.cumsum(random.integers(1, 9, 9000)).astype(float)
    values = random.standard_normal(9000)
    begins = np.minimum(np.searchsorted(updates, updates - 200), np.arange(9000) - 10).clip(0)
    medians = _trailing_medians(values, begins)
    assert np.isnan(medians[:10]).all()
    plain = [np.median(values[begins[row] : row]) for row in range(10, 9000)]
    assert np.array_equal(medians[10:], plain)
