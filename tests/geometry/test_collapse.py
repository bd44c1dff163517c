"""Measures of collapse where the answer is known: simplex frames, Gaussian classes, the pseudo-inverse by scipy."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from geometry.test_class_moments import clusters, moments, twin  # isort: skip

from sounding.geometry import collapse
from sounding.geometry.moments import ClassMoments


def simplex(classes: int, width: int, norm: float = 1.0) -> torch.Tensor:
    """C vectors of equal norms and equal angles, turned at random in d ≥ C dimensions; float64."""
    generator = torch.Generator().manual_seed(1)
    turned, _ = torch.linalg.qr(torch.randn(width, classes, dtype=torch.float64, generator=generator))
    frame = (torch.eye(classes, dtype=torch.float64) - 1 / classes) * math.sqrt(classes / (classes - 1))
    return norm * frame @ turned.T


def gaussian(classes: int, width: int, each: int, norm: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes around a simplex whose empirical covariance is exactly σ² times the identity."""
    generator = torch.Generator().manual_seed(2)
    rows = []
    for centre in simplex(classes, width, norm) + 0.7:
        noise = torch.randn(each, width, dtype=torch.float64, generator=generator)
        white, _ = torch.linalg.qr(noise - noise.mean(0))
        rows.append(centre + sigma * math.sqrt(each) * (white - white.mean(0)))
    return torch.cat(rows), torch.arange(classes).repeat_interleave(each)


@pytest.mark.parametrize("buffer", [5000, 1 << 24], ids=["folded", "kept"])
def test_a_perfect_simplex_has_collapsed(buffer: int):
    classes, width = 10, 24
    frame = simplex(classes, width)
    labels = torch.arange(classes).repeat(20)
    rows = (frame + 1.5)[labels]
    weight = 3 * frame
    decisions = (rows @ weight.T - weight @ torch.full((width,), 1.5, dtype=torch.float64)).argmax(1)
    found = moments(rows, labels, buffer=buffer, decisions=decisions)
    assert collapse.nc1_pinv(found) == pytest.approx(0, abs=1e-12)
    assert collapse.cdnv(found) == pytest.approx(0, abs=1e-12)
    centred = found.centred
    for value in (
        collapse.norm_variation(centred),
        collapse.angle_deviation(centred),
        collapse.etf_error(centred @ centred.T),
        collapse.etf_error(weight @ centred.T),
        collapse.self_duality(weight, centred),
        collapse.log_distances(centred).variance,
        collapse.alignment(weight, centred).variance,
        collapse.bias_collapse(weight, -weight @ torch.full((width,), 1.5, dtype=torch.float64), found),
    ):
        assert value == pytest.approx(0, abs=1e-9)
    assert collapse.alignment(weight, centred).mean == pytest.approx(1)
    assert collapse.log_distances(centred).mean == pytest.approx(-0.5 * math.log(2 * classes / (classes - 1)))
    assert found.disagreement is not None
    assert (found.disagreement.low, found.disagreement.high) == (0, 0)


@pytest.mark.parametrize("buffer", [20_000, 1 << 24], ids=["folded", "kept"])
def test_gaussian_classes(buffer: int):
    classes, width, norm, sigma = 8, 20, 2.5, 0.6
    found = moments(*gaussian(classes, width, 50, norm, sigma), buffer=buffer)
    assert collapse.nc1_pinv(found) == pytest.approx(sigma**2 * (classes - 1) ** 2 / (classes * norm**2), rel=1e-9)
    assert collapse.nc1_quotient(found) == pytest.approx(sigma**2 * width / norm**2, rel=1e-9)
    assert collapse.cdnv(found) == pytest.approx(sigma**2 * width * (classes - 1) / (2 * classes * norm**2), rel=1e-9)
    assert collapse.fuzziness(found) == pytest.approx(classes * collapse.nc1_pinv(found), rel=1e-9)  # balanced


@pytest.mark.parametrize("shape", [(800, 30, 9), (800, 9, 30)], ids=["C>d", "C<d"])
def test_the_pseudo_inverse_is_scipys(shape: tuple[int, int, int]):
    rows, labels, weight, bias = clusters(*shape, 1.0)
    truth = twin(rows, labels, weight, bias)
    centred = truth.centred.numpy()
    between = centred.T @ centred / len(centred)
    expected = np.trace(truth.within.numpy() @ scipy.linalg.pinvh(between)) / len(centred)
    assert collapse.nc1_pinv(moments(rows, labels)) == pytest.approx(expected, rel=1e-7)


def test_no_direction_is_made_of_rounding():
    """Class means in a plane: two directions count, though float32 rows lie a little off it."""
    generator = torch.Generator().manual_seed(0)
    plane, _ = torch.linalg.qr(torch.randn(40, 2, generator=generator))
    centres = torch.randn(12, 2, generator=generator) @ plane.T
    directions, squares = collapse.principal((centres - centres.mean(0)).double())
    exact = torch.linalg.svdvals((centres - centres.mean(0)).double())
    assert exact[2] < 1e-6 * exact[0]
    assert len(squares) <= 11
    assert squares[-2:].sqrt().flip(0).tolist() == pytest.approx(exact[:2].tolist(), rel=1e-9)
    assert collapse.principal(centres.double() - centres.double().mean(0))[0].shape[0] == 40
    perfect = torch.randn(12, 2, dtype=torch.float64, generator=generator) @ plane.double().T
    assert len(collapse.principal(perfect - perfect.mean(0))[1]) == 2
    assert directions.shape == (40, len(squares))


def test_weighting_matters_under_imbalance():
    rows, labels, *_ = clusters(4000, 6, 16, 0.8)
    keep = (labels > 2) | (torch.arange(4000) % 50 == 0)  # classes 0 to 2 have fifty times fewer
    found = moments(rows[keep], labels[keep])
    shares = found.counts / found.counts.sum()
    mean = shares @ found.means
    between = (found.means - mean).T @ torch.diag(shares) @ (found.means - mean)
    expected = float((found.within.matrix() @ torch.linalg.pinv(between, hermitian=True)).trace())
    assert collapse.fuzziness(found) == pytest.approx(expected, rel=1e-8)
    assert collapse.fuzziness(found) > 3 * 6 * collapse.nc1_pinv(found)


def test_many_classes_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch):
    rows, labels, *_ = clusters(2000, 25, 12, 0.5)
    found = moments(rows, labels)
    centred = found.centred
    whole = (collapse.cdnv(found), collapse.angle_deviation(centred), collapse.log_distances(centred))
    monkeypatch.setattr(collapse, "_PAIR_ROWS", 7)
    parts = (collapse.cdnv(found), collapse.angle_deviation(centred), collapse.log_distances(centred))
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-12)
    units = torch.nn.functional.normalize(centred, dim=1)
    logs = -torch.nn.functional.pdist(units).log()
    assert whole[2] == pytest.approx((float(logs.mean()), float(logs.var(correction=0))), rel=1e-9)


def test_one_class_has_no_between():
    rows, _, _, _ = clusters(50, 3, 8, 1.0)
    alone: ClassMoments = moments(rows, torch.zeros(50, dtype=torch.int64))
    for value in (collapse.nc1_pinv(alone), collapse.nc1_quotient(alone), collapse.cdnv(alone)):
        assert math.isnan(value)
