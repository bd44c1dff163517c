"""Two checkpoints gone through side by side: sums against exact ones, and one pass for all who ask."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sounding import Metric, Reading, accumulator, plugin, shared_pass
from sounding.measuring.collecting import Found
from sounding.measuring.discovery import Loaded, assemble, load
from sounding.numbers import CHUNK, inner, sum_of_squares
from sounding.passes import Model, Moments, Other, Pair, Weights
from sounding.passes.magnitudes import magnitude_of
from sounding.passes.pair import moments_of
from sounding.testing import Trial

M = [Metric("m", unit="1", meaning="m", source="s")]


def drawn(size: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def exact(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float, float, float]:
    """The sums in extended precision."""
    x, y = (each.double().numpy().astype(np.longdouble) for each in (before, after))
    return tuple(float(value) for value in (x @ x, y @ y, (y - x) @ (y - x), (y - x) @ (y + x)))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("step", [1e-4, 1e-2, 3.0])
def test_sums_against_extended_precision(dtype: torch.dtype, step: float):
    size = CHUNK + 777
    before = drawn(size, 1).to(dtype)
    after = (before.double() + drawn(size, 2, step)).to(dtype)
    found = moments_of(before, after)
    xx, yy, dd, growth = exact(before, after)
    assert found.before == pytest.approx(xx, rel=1e-7)
    assert found.after == pytest.approx(yy, rel=1e-7)
    assert found.change == pytest.approx(dd, rel=2e-7)
    assert found.growth == pytest.approx(growth, abs=1e-7 * math.sqrt(dd * (xx + yy)))
    assert found.count == size


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1 / 3, 1e-3])
def test_constants_are_no_worse(value: float):
    """Rounding errors of equal terms all point one way: a long sum in float32 is off by 1e-5 here."""
    tensor = torch.full((CHUNK,), value)
    right = CHUNK * float(tensor[0]) ** 2
    assert inner(tensor.numpy(), tensor.numpy()) == pytest.approx(right, rel=1e-7)
    assert moments_of(tensor, -tensor).change == pytest.approx(4 * right, rel=1e-7)
    assert moments_of(tensor, -tensor).growth == pytest.approx(0.0, abs=1e-7 * right)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-12, 1e18, 1e25])
def test_what_float32_cannot_square_is_squared_all_the_same(scale: float):
    before = (drawn(3000, 1) * scale).float()
    after = (drawn(3000, 2) * scale).float()
    xx, yy, dd, _ = exact(before, after)
    found = moments_of(before, after)
    assert (found.before, found.after, found.change) == pytest.approx((xx, yy, dd), rel=1e-6)


def test_a_tensor_that_shrinks_to_almost_nothing_keeps_its_norm():
    before = drawn(5000, 1).float()
    after = before * 1e-6
    assert moments_of(before, after).after == pytest.approx(float(after.double() @ after.double()), rel=1e-7)


def test_the_norm_of_forty_million_elements():
    """‖·‖² of 40M float32 values: 20M of 3 and 20M of 0.25, exactly 20e6·(9 + 1/16)."""
    tensor = torch.full((40_000_000,), 3.0)
    tensor[1::2] = 0.25
    right = 20e6 * (9 + 0.0625)
    assert sum_of_squares(tensor) == pytest.approx(right, rel=1e-12)
    found = moments_of(tensor, tensor)
    assert math.sqrt(found.before) == pytest.approx(math.sqrt(right), rel=1e-9)
    assert math.sqrt(found.after) == pytest.approx(math.sqrt(right), rel=1e-9)
    assert found.change == 0.0
    assert magnitude_of(tensor).norm == pytest.approx(math.sqrt(right), rel=1e-9)
    assert magnitude_of(tensor.reshape(8000, 5000)).norm == pytest.approx(math.sqrt(right), rel=1e-9)


def test_what_is_not_a_number_stays_none():
    found = moments_of(torch.tensor([1.0, 2.0]), torch.tensor([math.nan, 2.0]))
    assert math.isnan(found.angle)
    assert math.isnan(found.cosine_loss)
    assert math.isnan(moments_of(torch.zeros(2), torch.ones(2)).angle)


def test_one_minus_the_cosine_keeps_its_digits():
    angle = 1e-7
    x, y = torch.tensor([1.0, 0.0]).double(), torch.tensor([math.cos(angle), math.sin(angle)]).double()
    assert moments_of(x, y).cosine_loss == pytest.approx(angle**2 / 2, rel=1e-6)


def test_moments_add_up():
    one, two = moments_of(torch.ones(2), torch.ones(2) * 3), moments_of(torch.ones(3), torch.zeros(3))
    assert Pair({"a": one, "b": two}, {}).total == Moments(5.0, 18.0, 11.0, 13.0, one.floor + two.floor, 5)


# --- in the engine --------------------------------------------------------------------------------------------------

counted: list[str] = []


@shared_pass(version=1)
def doubled(pair: Pair, other: Other, weights: Weights) -> int:
    """A pass of an author's own, over a pair, on top of another."""
    counted.append("doubled")
    assert set(vars(other)["_passes"]) == {"weights", "checkpoint", "run", "opened"}
    return 2 * len(pair.moments)


def test_passes_over_pairs_build_on_each_other(sounding_plugin: Trial):
    @plugin(version=1, metrics=M, over="pair", against="previous")
    def uses_both(doubled: int, pair: Pair):
        yield Reading("m", doubled + pair.total.change)

    counted.clear()
    both: Any = uses_both
    found = sounding_plugin(
        both, also=[doubled], checkpoint={"model": {"w": torch.ones(3)}}, previous={"model": {"w": torch.zeros(3)}}
    )
    assert found == [Reading("m", 5.0)]
    assert counted == ["doubled"] * 2  # once in each of the trial's two runs


def loaded_with(*items: Any) -> Loaded:
    return assemble([Found(each, "sounding: here") for each in (*load().passes.values(), *items)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _alone, 'needs `pair`, which only over="pair" has'),
        (lambda: _filling, "an accumulator cannot need `other`"),
    ],
)
def test_where_there_is_no_pair_it_is_refused(make: Callable[[], Any], words: str):
    (refusal,) = loaded_with(make()).refusals
    assert words in refusal.reason


@plugin(version=1, metrics=M)
def _alone(pair: Pair):
    """Over one checkpoint."""
    yield Reading("m", 1.0)


class Filling:
    def update(self, batch: Any) -> None: ...

    def result(self) -> int:
        return 1


@accumulator(version=1)
def _filling(pair: Pair, model: Model) -> Filling:
    return Filling()
