"""Alignment, chance and captured power of kernels, against closed forms and every permutation."""

import itertools

import numpy as np
import pytest

from sounding.kernels import (
    alignment,
    alignment_by_chance,
    captured,
    centred,
    eigenvalues,
    gram_of,
    kernel_distance,
)

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(5, 3)) + 2.0


def test_centring_is_that_of_the_features():
    less = FEATURES - FEATURES.mean(axis=0)
    np.testing.assert_allclose(centred(FEATURES @ FEATURES.T), less @ less.T, atol=1e-12)


def test_targets_are_one_hot_or_numbers():
    classes = np.array([2, 0, 2, 1])
    hot = np.eye(3)[classes]
    np.testing.assert_array_equal(gram_of(classes), hot @ hot.T)
    numbers = np.array([1.0, -2.0, 3.0])
    np.testing.assert_array_equal(gram_of(numbers), np.outer(numbers, numbers))


def test_an_angle_between_two_directions_is_found():
    for angle in (0.3, 1e-6):
        one, two = np.array([1.0, 0.0]), np.array([np.cos(angle), np.sin(angle)])
        # Two kernels of rank one have the squared cosine of their directions.
        distance = kernel_distance(np.outer(one, one), 3.0 * np.outer(two, two))
        assert distance == pytest.approx(np.sin(angle) ** 2, rel=1e-9)
        assert alignment(np.outer(one, one), np.outer(two, two)) == pytest.approx(np.cos(angle) ** 2, rel=1e-12)
    kernel = FEATURES @ FEATURES.T
    assert kernel_distance(kernel, kernel) == 0.0
    assert np.isnan(kernel_distance(kernel, 0 * kernel))


def test_chance_is_the_mean_over_every_permutation():
    one, two = centred(FEATURES @ FEATURES.T), centred(gram_of(np.array([0, 1, 1, 0, 2])))
    every = [alignment(one, two[np.ix_(order, order)]) for order in map(list, itertools.permutations(range(5)))]
    assert alignment_by_chance(one, two) == pytest.approx(np.mean(every), rel=1e-12)


def test_eigenvalues_are_those_of_the_mean_over_examples():
    kernel = np.diag([3.0, 12.0, 6.0])
    np.testing.assert_allclose(eigenvalues(kernel), [4.0, 2.0, 1.0])


def test_power_is_captured_by_the_eigenvectors_that_hold_the_targets():
    basis = np.linalg.qr(RANDOM.normal(size=(4, 4)))[0]
    kernel = basis @ np.diag([8.0, 4.0, 2.0, 1.0]) @ basis.T
    target = 3 * basis[:, 1] + 4 * basis[:, 3]
    np.testing.assert_allclose(captured(kernel, np.outer(target, target)), [0.0, 0.36, 0.36, 1.0], atol=1e-12)
