"""Rounding errors against closed forms for normal weights, and against whole-tensor twins."""

import math
from typing import Any

import pytest
import torch

from sounding import Reading, Skip
from sounding.testing import Trial
from sounding_plugins.quantization import median_magnitude, quantization


def values(findings: Any, part: str = "w") -> dict[str, float]:
    return {each.metric: each.value for each in findings if isinstance(each, Reading) and each.part == part}


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def ternary_of_normal(scale: float) -> tuple[float, float]:
    """Relative squared error and share of zeros of standard normal values, with z = scale/2 the place of rounding.

    E(x - s·sign x)² over |x| > z, plus E x² below it, is 1 - 4sφ(z) + 2s²Q(z); φ the density, Q the upper tail.
    """
    z = scale / 2
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    beyond = 0.5 * math.erfc(z / math.sqrt(2))
    return 1 - 4 * scale * density + 2 * scale**2 * beyond, 1 - 2 * beyond


def test_ternary_weights_of_a_normal_matrix(sounding_plugin: Trial):
    found = values(sounding_plugin(quantization, checkpoint={"model": {"w": normal(700, 600)}}))
    for name, scale in (("mean", math.sqrt(2 / math.pi)), ("median", 0.6744897501960817)):
        error, zeros = ternary_of_normal(scale)
        assert found[f"ternary_error_{name}"] == pytest.approx(error, rel=0.01)
        assert found[f"ternary_zeros_{name}"] == pytest.approx(zeros, rel=0.01)


def test_weights_that_are_ternary_lose_nothing(sounding_plugin: Trial):
    signs = torch.tensor([-1.0, 1.0]).repeat(16, 16) * 0.37
    found = values(sounding_plugin(quantization, checkpoint={"model": {"w": signs}}))
    assert found["ternary_error_mean"] == pytest.approx(0.0, abs=1e-12)
    assert found["ternary_error_median"] == pytest.approx(0.0, abs=1e-12)
    assert found["ternary_zeros_mean"] == 0.0
    assert found["channel_range"] == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 200_001])
def test_the_median_is_the_median(count: int):
    tensor = torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    ordered = tensor.abs().sort().values
    low, high = float(ordered[(count - 1) // 2]), float(ordered[count // 2])
    assert low - 1e-12 <= median_magnitude(tensor) <= high + 1e-12


def test_rounding_errors_are_those_of_the_types(sounding_plugin: Trial):
    weight = normal(300, 200)
    found = values(sounding_plugin(quantization, checkpoint={"model": {"w": weight}}))
    exact = weight.double()
    largest = float(weight.abs().max())
    for metric, dtype, scale in (
        ("bfloat16_error", torch.bfloat16, 1.0),
        ("fp8_e4m3_error", torch.float8_e4m3fn, 448.0 / largest),
        ("fp8_e5m2_error", torch.float8_e5m2, 57344.0 / largest),
    ):
        rounded = (weight * scale).to(dtype).double() / scale
        assert found[metric] == pytest.approx(float((exact - rounded).norm() / exact.norm()), rel=1e-3), metric
    assert found["bfloat16_error"] == pytest.approx(2**-7 / math.sqrt(32 * math.log(2)), rel=0.01)
    assert found["bfloat16_error"] < found["fp8_e4m3_error"] < found["fp8_e5m2_error"]


def test_what_is_stored_in_bfloat16_rounds_to_itself(sounding_plugin: Trial):
    found = values(sounding_plugin(quantization, checkpoint={"model": {"w": normal(32, 32).bfloat16()}}))
    assert found["bfloat16_error"] == 0.0


def test_planted_channels_stand_out(sounding_plugin: Trial):
    weight = normal(400, 100).clamp(-3, 3)
    weight[:, [3, 50]] *= 10
    found = values(sounding_plugin(quantization, checkpoint={"model": {"w": weight}}))
    assert found["outlier_channels"] == 2
    assert found["channel_range"] == pytest.approx(10, rel=0.1)
    strict = values(sounding_plugin(quantization, checkpoint={"model": {"w": weight}}, outlier_ratio=11.0))
    assert strict["outlier_channels"] == 0


def test_what_cannot_be_rounded_says_so(sounding_plugin: Trial):
    mostly = torch.zeros(20, 20)
    mostly[0, 0] = 1.0
    network = {"zero": torch.zeros(20, 20), "nan": torch.full((20, 20), math.nan), "mostly": mostly}
    found = sounding_plugin(quantization, checkpoint={"model": network})
    reasons = {(each.part, each.reason.split(",")[0]) for each in found if isinstance(each, Skip)}
    assert reasons == {
        ("zero", "all of it is zero"),
        ("nan", "it has values that are NaN or infinite"),
        ("mostly", "the median of |w| is zero"),
        ("mostly", "half of its columns are zero"),
    }
    found = sounding_plugin(quantization, checkpoint={"model": {"b": torch.ones(5)}})
    assert [each.reason for each in found if isinstance(each, Skip)] == ["no weight matrix has 16 rows and columns"]
