"""Traces, norms and densities against dense ones; outliers in spectra made to have some."""

import numpy as np
import pytest
import torch
from curvature.dense import Dense, like_a_network, with_eigenvalues

from sounding.curvature.eigenvalues import Extremes
from sounding.curvature.krylov import extremes, random_vector
from sounding.curvature.outliers import outliers_of
from sounding.curvature.probes import Density, criteria, density, traces


def found_in(operator: Dense) -> Extremes:
    return extremes(operator, random_vector(operator, 100))


def distance(found: Density, values: np.ndarray) -> float:
    """Wasserstein's distance of two distributions of eigenvalues, relative to their mean magnitude."""
    places = np.sort(np.r_[found.nodes, values])
    one = np.r_[0.0, np.cumsum(found.weights)][np.searchsorted(found.nodes, places, side="right")]
    other = np.searchsorted(np.sort(values), places, side="right") / len(values)
    return float((np.abs(one - other)[:-1] * np.diff(places)).sum() / np.abs(values).mean())


def test_traces_are_right_within_their_standard_errors_and_these_are_honest():
    trace, norm = [], []
    for seed in range(30):
        operator = with_eigenvalues(like_a_network(seed, 200), seed)
        values = np.linalg.eigvalsh(operator.exact)
        found = traces(operator, found_in(operator), probes=20, seed=seed)
        trace.append((found.trace.value - values.sum()) / found.trace.stderr)
        norm.append((found.frobenius.value - np.linalg.norm(values)) / found.frobenius.stderr)
    for errors in (np.array(trace), np.array(norm)):
        assert 0.6 < np.sqrt((errors**2).mean()) < 1.6  # 30 draws of a t law with 19 degrees
        assert abs(errors.mean()) < 4 / np.sqrt(30)


def test_deflation_leaves_little_to_estimate():
    operator = with_eigenvalues(like_a_network(3), 3)
    found = traces(operator, found_in(operator))
    assert found.trace.stderr < 0.03 * abs(found.trace.value)
    hutchinson = np.std([z @ operator.exact @ z for z in np.sign(np.random.default_rng(0).normal(size=(400, 600)))])
    assert found.trace.stderr < 0.25 * hutchinson / np.sqrt(found.probes)


def test_a_matrix_of_low_rank_is_known_without_error():
    operator = with_eigenvalues([5.0, 4.0, 3.0, 2.0, 1.0] + [0.0] * 95)
    found = traces(operator, found_in(operator))
    assert found.trace.value == pytest.approx(15.0, rel=1e-5)
    assert found.trace.stderr < 1e-4
    assert found.frobenius.value == pytest.approx(np.sqrt(55.0), rel=1e-5)


def test_the_density_is_near_the_histogram_and_outliers_have_their_weight():
    better = []
    for seed in range(6):
        operator = with_eigenvalues(like_a_network(seed, 400), seed)
        values = np.linalg.eigvalsh(operator.exact)
        found = density(operator, found_in(operator), depth=40, probes=1, seed=seed)
        assert found.weights.sum() == pytest.approx(1.0)
        assert (np.diff(found.nodes) >= 0).all()
        assert found.weights[-3:].tolist() == pytest.approx([1 / 400] * 3)
        assert found.nodes[-3:].tolist() == pytest.approx(values[-3:].tolist(), rel=1e-3)
        assert distance(found, values) < 0.3
        plain = Density(*found.plain[0], depth=40, plain=())
        better.append(distance(found, values) / distance(plain, values))
    assert np.mean(better) < 0.5


def test_moments_of_the_plain_quadrature_are_those_of_its_random_vector():
    operator = with_eigenvalues(like_a_network(0, 200), 0)
    nodes, weights = density(operator, found_in(operator), depth=20, seed=4).plain[0]
    generator = torch.Generator().manual_seed(4)
    signs = torch.randint(0, 2, (1, 200), generator=generator, dtype=torch.int8)[0].numpy() * 2.0 - 1.0
    image = operator.exact @ signs
    assert (weights * nodes).sum() == pytest.approx(signs @ image / 200, rel=1e-4)
    assert (weights * nodes**2).sum() == pytest.approx(image @ image / 200, rel=1e-4)


def test_criteria_by_hand():
    plain = ((np.array([-1.0, 0.0, 4.0]), np.array([0.25, 0.5, 0.25])),)
    found = criteria(Density(np.zeros(1), np.ones(1), 3, plain))
    assert found.re == 0.25
    assert found.kh == pytest.approx(0.5 / 1.0)
    assert not found.mostly_negative
    assert criteria(Density(np.zeros(1), np.ones(1), 3, ((-plain[0][0][::-1], plain[0][1]),))).mostly_negative


def test_outliers_are_counted_by_the_widest_gap():
    operator = with_eigenvalues(np.r_[20.0, 18.0, 15.0, np.linspace(-0.1, 1.5, 300)])
    found = outliers_of(found_in(operator), 1e-3)
    assert found is not None
    assert (found.count, found.clear) == (3, True)
    assert found.gap == pytest.approx(10.0, rel=0.02)
    assert found.sum == pytest.approx(53.0, rel=1e-3)


def test_no_clear_gap_and_nothing_to_tell():
    even = outliers_of(found_in(with_eigenvalues(np.geomspace(1e-3, 10.0, 60))), 1e-3)
    assert even is not None
    assert not even.clear
    assert outliers_of(found_in(with_eigenvalues(-np.linspace(1.0, 2.0, 50))), 1e-3) is None
    assert outliers_of(found_in(with_eigenvalues([3.0])), 1e-3) is None
