"""Changes of weights against exact rotations, and the resolution of stored types."""

import math
from typing import Any

import pytest
import torch

from sounding import Reading, Skip
from sounding.passes.pair import moments_of, rounding
from sounding.testing import Trial
from sounding_plugins.weight_change import weight_change


def readings(findings: Any, metric: str):
    return {each.part: each for each in findings if isinstance(each, Reading) and each.metric == metric}


def turned(angle: float, growth: float = 1.0, size: int = 1000, dtype: torch.dtype = torch.float64):
    """A pair of vectors with exactly this angle between them (up to one rounding of sine and cosine)."""
    before = torch.zeros(size, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    radius = torch.rand(size, generator=generator, dtype=torch.float64) + 0.5
    before[:, 0] = radius
    after = torch.stack([radius * math.cos(angle), radius * math.sin(angle)], 1) * growth
    return before.to(dtype), after.to(dtype)


@pytest.mark.parametrize("angle", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, math.pi / 2])
@pytest.mark.parametrize("growth", [1.0, 1.5])
def test_rotations_are_exact_in_float64(angle: float, growth: float):
    relative = 1e-6 if growth == 1.0 or angle > 1e-4 else 1e-3  # growth much above the turn hides digits of it
    assert moments_of(*turned(angle, growth)).angle == pytest.approx(angle, rel=relative)


@pytest.mark.parametrize("angle", [1e-4, 1e-3, 1e-2, 1.0])
def test_rotations_survive_float32(angle: float):
    assert moments_of(*turned(angle, dtype=torch.float32)).angle == pytest.approx(angle, rel=1e-3)


def test_half_a_turn():
    x = torch.ones(7)
    assert moments_of(x, -x).angle == pytest.approx(math.pi)


def test_all_metrics_of_a_known_pair(sounding_plugin: Trial):
    before = {"w": torch.tensor([[3.0, 0.0]]), "v": torch.tensor([2.0])}
    after = {"w": torch.tensor([[0.0, 4.0]]), "v": torch.tensor([3.0])}
    found = sounding_plugin(weight_change, checkpoint={"model": after}, previous={"model": before})
    expected = {
        "absolute_change": {"w": 5.0, "v": 1.0, "": math.sqrt(26)},
        "relative_change": {"w": 5 / 3, "v": 0.5, "": math.sqrt(26 / 13)},
        "norm_change": {"w": 1.0, "v": 1.0, "": 5 - math.sqrt(13)},
        "rotation": {"w": math.pi / 2, "v": 0.0, "": math.acos(6 / (5 * math.sqrt(13)))},
    }
    for metric, parts in expected.items():
        assert {part: each.value for part, each in readings(found, metric).items()} == pytest.approx(parts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounding_is_what_storing_does(dtype: torch.dtype):
    exact = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    measured = float((exact.to(dtype).double() - exact).norm() / exact.norm())
    assert rounding(dtype) == pytest.approx(measured, rel=0.01)


def test_the_floors_in_radians():
    assert rounding(torch.bfloat16) == pytest.approx(1.66e-3, rel=2e-3)
    assert rounding(torch.float16) == pytest.approx(2.07e-4, rel=2e-3)


@pytest.mark.parametrize(("angle", "quality"), [(1e-4, "unresolved"), (1e-2, "ok")])
def test_angles_below_the_resolution_are_marked(sounding_plugin: Trial, angle: float, quality: str):
    generator = torch.Generator().manual_seed(5)
    x, z = torch.randn(2, 1 << 16, generator=generator, dtype=torch.float64)
    z -= x * (x @ z) / (x @ x)
    y = x * math.cos(angle) + z * math.sin(angle) * x.norm() / z.norm()
    before, after = ({"model": {"w": each.bfloat16()}} for each in (x, y))
    found = sounding_plugin(weight_change, checkpoint=after, previous=before)
    assert readings(found, "rotation")["w"].quality == quality
    assert readings(found, "relative_change")[""].quality == quality
    in_full = {"model": {"w": y}}, {"model": {"w": x}}
    found = sounding_plugin(weight_change, checkpoint=in_full[0], previous=in_full[1])
    assert readings(found, "rotation")["w"].quality == "ok"
    assert readings(found, "rotation")["w"].value == pytest.approx(angle, rel=1e-6)


def test_growth_without_a_turn_is_resolved_as_growth_only(sounding_plugin: Trial):
    x = torch.randn(4096, generator=torch.Generator().manual_seed(5)).bfloat16()
    found = sounding_plugin(weight_change, checkpoint={"model": {"w": x * 2}}, previous={"model": {"w": x}})
    assert readings(found, "relative_change")["w"].quality == "ok"
    assert readings(found, "relative_change")["w"].value == pytest.approx(1.0)
    assert readings(found, "rotation")["w"].quality == "unresolved"


def test_what_does_not_match_is_said(sounding_plugin: Trial):
    before = {"same": torch.ones(2), "shape": torch.ones(2), "old": torch.ones(1), "zero": torch.zeros(2)}
    after = {"same": torch.ones(2) * 2, "shape": torch.ones(3), "new": torch.ones(1), "zero": torch.ones(2)}
    found = sounding_plugin(weight_change, checkpoint={"model": after}, previous={"model": before})
    skipped = {each.part: each.reason for each in found if isinstance(each, Skip)}
    assert set(skipped) == {"shape", "old", "new", "zero"}
    assert "[2]" in skipped["shape"]
    assert "[3]" in skipped["shape"]
    assert set(readings(found, "absolute_change")) == {"same", "zero", ""}
    assert set(readings(found, "rotation")) == {"same", ""}


def test_nothing_in_common_is_a_skip_of_everything(sounding_plugin: Trial):
    found = sounding_plugin(
        weight_change, checkpoint={"model": {"a": torch.ones(1)}}, previous={"model": {"b": torch.ones(1)}}
    )
    assert all(isinstance(each, Skip) for each in found)
    assert len(found) == 2
