"""What is read where nothing was learned, and where a simplex does not fit."""

import math

import pytest
import torch

from geometry.test_class_moments import clusters, moments  # isort: skip

from sounding.geometry import collapse
from sounding.geometry.nulls import Chance, etf_floor, nc1_of_permuted_labels, of_permuted_labels


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
    """The same distributions: medians agree within what the spread of a hundred draws allows."""
    rows, labels, *_ = clusters(*shape, 1.0)
    drawn = of_permuted_labels(moments(rows, labels, buffer=50_000), draws=100)
    permuted = of_permuted_labels(moments(rows, labels, buffer=1 << 24), draws=100)
    for name in Chance._fields:
        one, other = (sorted(getattr(each, name) for each in all_of) for all_of in (drawn, permuted))
        spread = (other[84] - other[16]) / 2
        assert abs(one[50] - other[50]) < 5 * 1.25 * spread * math.sqrt(2 / 100), name
        assert one[84] - one[16] == pytest.approx(2 * spread, rel=0.6), name


def test_permuting_is_measuring_again():
    rows, labels, *_ = clusters(900, 6, 20, 1.0)
    (value,) = of_permuted_labels(moments(rows, labels, buffer=1 << 24), draws=1, seed=3)
    again = moments(rows, labels[torch.randperm(900, generator=torch.Generator().manual_seed(3))])
    centred = again.centred
    expected = Chance(
        collapse.nc1_pinv(again),
        collapse.nc1_quotient(again),
        collapse.cdnv(again),
        collapse.norm_variation(centred),
        collapse.angle_deviation(centred),
        collapse.etf_error(centred @ centred.T),
    )
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("buffer", [50_000, 1 << 24], ids=["drawn", "permuted"])
def test_quotients_of_permuted_labels_are_those_of_the_numbers_of_examples(buffer: int):
    """Σ_B takes (C - 1)/(N - 1) of the total variance, and the squares of distances between means 2/n_c of it."""
    classes, each = 10, 80
    rows = torch.randn(classes * each, 300, generator=torch.Generator().manual_seed(0))
    found = moments(rows, torch.arange(classes).repeat(each), buffer=buffer)
    draws = of_permuted_labels(found, draws=40)
    quotient, cdnv = (sorted(getattr(it, name) for it in draws)[20] for name in ("nc1_quotient", "cdnv"))
    assert quotient == pytest.approx((each - 1) * classes / (classes - 1), rel=0.1)
    assert cdnv == pytest.approx((each - 1) / 2, rel=0.15)


def test_permuted_labels_are_dual_to_nothing_and_agree_as_often_as_names_drawn_at_random():
    """NC3 is √2, NC4 is 1 - 1/C: what the page tells instead of drawing it."""
    classes = 8
    rows, labels, weight, bias = clusters(4000, classes, 60, 1.0)
    wide, decided = weight.double(), (rows @ weight.T + bias).argmax(1)
    found: dict[str, list[float]] = {"duality": [], "frame": [], "decisions": []}
    for seed in range(40):
        dealt = moments(rows, labels[torch.randperm(4000, generator=torch.Generator().manual_seed(seed))])
        found["duality"].append(collapse.self_duality(wide, dealt.centred))
        found["frame"].append(collapse.etf_error(wide @ dealt.centred.T))
        near = torch.cdist(rows.double(), dealt.means).argmin(1)
        found["decisions"].append(float((near != decided).double().mean()))
    means = {name: sum(values) / 40 for name, values in found.items()}
    assert means["duality"] == pytest.approx(math.sqrt(2), rel=0.03)
    assert means["frame"] == pytest.approx(math.sqrt(2), rel=0.06)
    assert means["decisions"] == pytest.approx(1 - 1 / classes, abs=0.05)


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
