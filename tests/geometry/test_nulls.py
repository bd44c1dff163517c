"""What is read where nothing was learned, and where a simplex does not fit."""

import math

import pytest
import torch

from geometry.test_class_moments import clusters, moments  # isort: skip

from sounding.geometry import collapse
from sounding.geometry.nulls import etf_floor, nc1_of_permuted_labels


@pytest.mark.parametrize("buffer", [50_000, 1 << 24], ids=["drawn", "permuted"])
def test_white_noise_reads_as_samples_times_classes_over_dimensions(buffer: int):
    classes, width, each = 10, 400, 60
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(classes * each, width, generator=generator)
    labels = torch.arange(classes).repeat(each)
    found = moments(rows, labels, buffer=buffer)
    null = nc1_of_permuted_labels(found, draws=5)
    expected = (each - 1) * (classes - 1) / (width - classes)  # the mean of an inverse Wishart matrix
    assert collapse.nc1_pinv(found) == pytest.approx(expected, rel=0.1)
    assert null[2] == pytest.approx(expected, rel=0.1)
    assert list(null) == sorted(null)
    assert nc1_of_permuted_labels(found, draws=5) == null


@pytest.mark.parametrize("shape", [(3000, 8, 20), (3000, 30, 12)], ids=["C<d", "C>d"])
def test_drawing_means_is_as_permuting_labels(shape: tuple[int, int, int]):
    """The same distribution: medians agree within what the spread of a hundred draws allows."""
    rows, labels, *_ = clusters(*shape, 1.0)
    drawn = nc1_of_permuted_labels(moments(rows, labels, buffer=50_000), draws=100)
    permuted = nc1_of_permuted_labels(moments(rows, labels, buffer=1 << 24), draws=100)
    spread = (permuted[84] - permuted[16]) / 2
    assert abs(drawn[50] - permuted[50]) < 5 * 1.25 * spread * math.sqrt(2 / 100)
    assert drawn[84] - drawn[16] == pytest.approx(2 * spread, rel=0.6)


def test_permuting_is_measuring_again():
    rows, labels, *_ = clusters(900, 6, 20, 1.0)
    found = moments(rows, labels, buffer=1 << 24)
    (value,) = nc1_of_permuted_labels(found, draws=1, seed=3)
    order = torch.randperm(900, generator=torch.Generator().manual_seed(3))
    assert value == pytest.approx(collapse.nc1_pinv(moments(rows, labels[order])), rel=1e-5)


@pytest.mark.parametrize(("classes", "width"), [(10, 3), (100, 64), (5, 8)])
def test_no_vectors_fall_below_the_floor_and_the_best_reach_it(classes: int, width: int):
    floor = etf_floor(classes, width)
    ideal = torch.eye(classes, dtype=torch.float64) - 1 / classes
    _, vectors = torch.linalg.eigh(ideal)
    best = vectors[:, -min(width, classes - 1) :]
    assert collapse.etf_error(best @ best.T) == pytest.approx(floor, abs=1e-7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        rows = torch.randn(classes, width, dtype=torch.float64, generator=generator)
        assert collapse.etf_error(rows @ rows.T) >= floor
    assert (floor == 0) == (width >= classes - 1)
