"""Moments by class against a naive float64 twin in three passes: however the rows are cut, merged or collapsed."""

from typing import Any

import pytest
import torch
from collapse_reference import Reference, figures, fuzziness, three_passes

from sounding.geometry import collapse
from sounding.geometry.class_moments import ClassMomentsState
from sounding.geometry.moments import ClassMoments

SMALL = 40_000  # bytes: less than the rows take, so that they are folded


def clusters(examples: int, classes: int, width: int, spread: float, seed: int = 0):
    """Features around random centres far from the origin, labels and a classifier that is not their nearest centre."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (examples,), generator=generator)
    centres = torch.randn(classes, width, generator=generator) + 3
    rows = centres[labels] + spread * torch.randn(examples, width, generator=generator)
    weight = centres - centres.mean(0) + 0.3 * torch.randn(classes, width, generator=generator)
    return rows, labels, weight, torch.randn(classes, generator=generator)


def moments(rows: torch.Tensor, labels: torch.Tensor, *, batch: int = 97, buffer: int = SMALL, decisions: Any = None):
    state = ClassMomentsState(buffer)
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        state.update(rows[part], labels[part], None if decisions is None else decisions[part])
    found = state.result()
    assert found is not None
    return found


def twin(rows: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Reference:
    return three_passes(lambda: [(rows, labels)], weight, bias, torch.float64)


def numbers(found: ClassMoments) -> dict[str, float]:
    return {
        "nc1_pinv": collapse.nc1_pinv(found),
        "nc1_quotient": collapse.nc1_quotient(found),
        "cdnv": collapse.cdnv(found),
        "fuzziness": collapse.fuzziness(found),
    }


@pytest.mark.parametrize("buffer", [SMALL, 1 << 24], ids=["folded", "kept"])
@pytest.mark.parametrize("shape", [(1500, 7, 30), (900, 40, 12)], ids=["C<d", "C>d"])
def test_all_numbers_are_those_of_the_twin(shape: tuple[int, int, int], buffer: int):
    rows, labels, weight, bias = clusters(*shape, 0.5)
    found = moments(rows, labels, buffer=buffer)
    truth = twin(rows, labels, weight, bias)
    assert torch.allclose(found.means, truth.means, rtol=1e-9)
    assert torch.equal(found.counts, truth.counts)
    assert torch.allclose(found.variances, truth.variances, rtol=1e-7)
    assert torch.allclose(found.within.matrix(), truth.within, atol=1e-7)
    expected = figures(truth, weight, bias)
    wide, centred = weight.double(), found.centred
    got = numbers(found) | {
        "nc2_norm_means": collapse.norm_variation(centred),
        "nc2_norm_head": collapse.norm_variation(wide),
        "nc2_angle_means": collapse.angle_deviation(centred),
        "nc2_angle_head": collapse.angle_deviation(wide),
        "nc2_etf_error_means": collapse.etf_error(centred @ centred.T),
        "nc2_etf_error_head": collapse.etf_error(wide @ wide.T),
        "nc3_self_duality": collapse.self_duality(wide, centred),
        "nc3_etf_error": collapse.etf_error(wide @ centred.T),
        "nc3_bias": collapse.bias_collapse(wide, bias.double(), found),
    }
    assert got.pop("fuzziness") == pytest.approx(fuzziness(truth), rel=1e-6)
    assert got == {name: pytest.approx(expected[name], rel=1e-6) for name in got}


def test_the_scatter_about_the_sample_mean_is_the_covariance():
    rows, labels, *_ = clusters(1500, 7, 30, 0.5)
    for buffer in (SMALL, 1 << 24):
        total = moments(rows, labels, buffer=buffer).total()
        assert torch.allclose(total, torch.cov(rows.double().T, correction=0), atol=1e-7)


@pytest.mark.parametrize("true", [1e-3, 1e-6, 1e-9])
def test_collapsed_classes_keep_their_digits(true: float):
    rows, labels, weight, bias = clusters(3000, 10, 64, true**0.5)
    expected = figures(twin(rows, labels, weight, bias), weight, bias)
    for buffer in (SMALL, 1 << 24):
        found = numbers(moments(rows, labels, buffer=buffer))
        for name in ("nc1_pinv", "nc1_quotient", "cdnv"):
            assert found[name] == pytest.approx(expected[name], rel=1e-6), (name, buffer)
    assert expected["nc1_quotient"] < 3 * true


@pytest.mark.parametrize("buffer", [SMALL, 1 << 24], ids=["folded", "kept"])
def test_batch_sizes_make_no_difference(buffer: int):
    rows, labels, weight, _ = clusters(1200, 6, 50, 1.0)
    decisions = (rows @ weight.T).argmax(1)
    whole, *others = (
        moments(rows, labels, batch=batch, buffer=buffer, decisions=decisions) for batch in (1200, 1, 7, 256)
    )
    for each in others:
        assert numbers(each) == {name: pytest.approx(value, rel=1e-9) for name, value in numbers(whole).items()}
        assert each.disagreement == whole.disagreement


@pytest.mark.parametrize("buffers", [(SMALL, SMALL), (1 << 24, SMALL), (SMALL, 1 << 24), (1 << 24, 1 << 24)])
def test_merging_is_seeing_all_at_once(buffers: tuple[int, int]):
    rows, labels, weight, bias = clusters(1600, 9, 20, 0.7)
    rows = rows.double()
    labels[:800][labels[:800] == 4] = 5  # a class that only the second one meets
    states = [ClassMomentsState(buffer) for buffer in buffers]
    for part, state in zip((slice(0, 800), slice(800, 1600)), states, strict=True):
        state.update(rows[part], labels[part])
    states[0].merge(states[1])
    found = states[0].result()
    assert found is not None
    truth = twin(rows, labels, weight, bias)
    assert torch.allclose(found.means, truth.means, rtol=1e-10)
    assert torch.allclose(found.variances, truth.variances, rtol=1e-10)
    assert torch.allclose(found.within.matrix(), truth.within, rtol=1e-10, atol=1e-12)
    assert collapse.nc1_pinv(found) == pytest.approx(figures(truth, weight, bias)["nc1_pinv"], rel=1e-10)


def test_classes_without_examples_are_not_there():
    rows, labels, weight, bias = clusters(1000, 8, 16, 0.5)
    sparse = labels * 5
    found = moments(rows, sparse)
    assert found.classes.tolist() == [0, 5, 10, 15, 20, 25, 30, 35]
    assert collapse.nc1_pinv(found) == pytest.approx(
        figures(twin(rows, labels, weight, bias), weight, bias)["nc1_pinv"]
    )
    assert found.of_at_least(int(found.counts.max())).classes.numel() < 8
    assert ClassMomentsState().result() is None


def test_half_precision_features_are_taken_as_they_are():
    rows, labels, weight, bias = clusters(500, 4, 16, 0.5)
    found = moments(rows.bfloat16(), labels)
    truth = figures(twin(rows.bfloat16().float(), labels, weight, bias), weight, bias)
    assert collapse.nc1_pinv(found) == pytest.approx(truth["nc1_pinv"], rel=1e-6)


def test_memory_is_bounded_whatever_the_number_of_rows():
    state = ClassMomentsState(SMALL)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        state.update(torch.randn(500, 32, generator=generator), torch.randint(0, 5, (500,), generator=generator))
    assert state.nbytes <= 12 * 5 * 32 + 8 * 32**2 + SMALL + 24 * 5


class TestDisagreement:
    """NC4: how many decisions differ from the nearest class mean."""

    @pytest.mark.parametrize("spread", [0.3, 2.0])
    def test_kept_rows_give_it_exactly(self, spread: float):
        rows, labels, weight, bias = clusters(2000, 12, 24, spread)
        share = moments(rows, labels, buffer=1 << 24, decisions=(rows @ weight.T + bias).argmax(1)).disagreement
        truth = twin(rows, labels, weight, bias).differing
        assert share is not None
        assert share.low == share.value == share.high == truth > 0

    @pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
    def test_folded_rows_give_bounds_that_hold(self, spread: float):
        rows, labels, weight, bias = clusters(20_000, 12, 24, spread)
        share = moments(rows, labels, buffer=1 << 18, decisions=(rows @ weight.T + bias).argmax(1)).disagreement
        truth = twin(rows, labels, weight, bias).differing
        assert share is not None
        assert share.low <= truth <= share.high
        assert share.value == pytest.approx(truth, abs=0.02)
        if spread == 0.1:
            assert share.low == share.high  # well separated: everything is certain

    def test_rows_from_before_a_class_was_met_are_uncertain(self):
        rows, labels, weight, bias = clusters(6000, 4, 24, 0.1)
        order = labels.argsort(stable=True)
        rows, labels = rows[order], labels[order]
        share = moments(rows, labels, buffer=1 << 16, decisions=(rows @ weight.T + bias).argmax(1)).disagreement
        assert share is not None
        assert share.low <= twin(rows, labels, weight, bias).differing <= share.high
        assert share.high - share.low > 0.4
