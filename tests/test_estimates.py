"""Means with their standard errors, against values worked out by hand."""

import math

import numpy as np
import pytest

from sounding.estimates import Estimate, mean_of


def test_the_error_of_a_mean_is_the_deviation_over_the_root_of_the_count():
    # Of 2, 4, 4, 6 the squared deviations from 4 sum to 8: s² = 8/3, and s/√4 = √(2/3).
    found = mean_of([2, 4, 4, 6])
    assert found.value == 4.0
    assert found.stderr == pytest.approx(math.sqrt(2 / 3), rel=1e-14)
    assert found.error == found.stderr
    assert mean_of(np.array([2, 4, 4, 6], dtype=np.float32)) == found
    assert mean_of(np.array([True, False])) == (0.5, pytest.approx(0.5))


def test_one_sample_has_a_mean_and_no_error():
    found = mean_of([3.0])
    assert found.value == 3.0
    assert math.isnan(found.stderr)
    assert found.error is None
    assert Estimate(1.0, math.inf).error is None
