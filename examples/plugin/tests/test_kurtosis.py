"""Kurtosis against distributions whose value is known."""

import pytest
import torch
from sounding_kurtosis.kurtosis import kurtosis

from sounding import Skip
from sounding.testing import Trial


@pytest.mark.parametrize(
    ("tensor", "value", "tolerance"),
    [
        (torch.tensor([[-1.0, 1.0]] * 8), -2.0, 1e-12),  # two points: the least there is
        (torch.linspace(-1, 1, 10001, dtype=torch.float64).reshape(1, -1), -1.2, 1e-6),
        (torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0)), 0.0, 4 * (24 / 1e6) ** 0.5),
    ],
)
def test_known_distributions(sounding_plugin: Trial, tensor: torch.Tensor, value: float, tolerance: float) -> None:
    (found,) = sounding_plugin(kurtosis, checkpoint={"model": {"layer.weight": tensor}})
    assert found.value == pytest.approx(value, abs=tolerance)


def test_small_and_constant_matrices_are_skipped(sounding_plugin: Trial) -> None:
    state = {"small": torch.ones(2, 2), "constant": torch.ones(8, 8), "bias": torch.ones(99)}
    found = sounding_plugin(kurtosis, checkpoint={"model": state}, smallest=5)
    assert {each.part for each in found if isinstance(each, Skip)} == {"small", "constant"}
    assert len(found) == 2
