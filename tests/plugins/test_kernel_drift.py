"""Lazy and rich training told apart in networks where every number is known."""

from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.kernel_drift import kernel_drift

INPUTS = torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
PROBE = Probe(train=(INPUTS, torch.zeros(16, 1)))


def deep(first: float, second: float) -> Any:
    model: Any = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(first)
        model[1].weight.fill_(second)
    return model


def measured(trial: Trial, first: nn.Module, now: nn.Module, **more: Any) -> tuple[dict[str, Any], list[str]]:
    found = trial(kernel_drift, model=now, probe=PROBE, previous={"model": first.state_dict()}, **more)
    readings = {each.metric: each.label or each.value for each in found if isinstance(each, Reading)}
    return readings, [each.reason for each in found if isinstance(each, Skip)]


def test_a_linear_model_is_lazy(sounding_plugin: Trial):
    torch.manual_seed(0)
    found, _ = measured(sounding_plugin, nn.Linear(1, 1), nn.Linear(1, 1))
    assert found["regime"] == "lazy"
    assert found["linearisation_error"] == pytest.approx(0.0, abs=1e-5)
    assert found["relative_kernel_change"] == 0.0
    assert found["relative_distance"] > 0.5


@pytest.mark.parametrize(
    ("first", "now", "regime"),
    [((2.0, 1.0), (2.1, 1.1), "lazy"), ((2.0, 1.0), (3.0, 2.0), "intermediate"), ((0.1, 0.1), (2.0, 1.0), "rich")],
)
def test_a_product_of_two_weights(sounding_plugin: Trial, first: Any, now: Any, regime: str):
    # f = b·a·x; linearised it moves by b·Δa + a·Δb, so that Δa·Δb is missed; the kernel is (a² + b²)·x·x'.
    (a, b), (c, d) = first, now
    found, skips = measured(sounding_plugin, deep(a, b), deep(c, d))
    assert found["linearisation_error"] == pytest.approx((c - a) * (d - b) / (c * d - a * b), rel=1e-4)
    assert found["relative_kernel_change"] == pytest.approx((c**2 + d**2) / (a**2 + b**2) - 1, rel=1e-4)
    assert found["kernel_distance"] == pytest.approx(0.0, abs=1e-12)
    moved = ((c - a) ** 2 + (d - b) ** 2) / (a**2 + b**2)
    assert found["relative_distance"] == pytest.approx(moved**0.5, rel=1e-5)
    assert found["relative_output_change"] == pytest.approx(c * d / (a * b) - 1, rel=1e-4)
    assert found["regime"] == regime
    assert skips == []


def test_the_bounds_are_options(sounding_plugin: Trial):
    pair = deep(2.0, 1.0), deep(3.0, 2.0)  # 1/4 is missed
    assert measured(sounding_plugin, *pair, lazy_below=0.3)[0]["regime"] == "lazy"
    assert measured(sounding_plugin, *pair, rich_above=0.2)[0]["regime"] == "rich"


def test_the_first_checkpoint_itself_has_not_moved(sounding_plugin: Trial):
    found, _ = measured(sounding_plugin, deep(2.0, 1.0), deep(2.0, 1.0))
    assert found["regime"] == "unmoved"
    assert found["kernel_distance"] == found["relative_distance"] == 0.0
    assert "linearisation_error" not in found


def test_gradients_without_a_derivative_are_told(sounding_plugin: Trial):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
            return slope * 2

    functions = {"forward": lambda net, x: Once.apply(net(x))}
    found, skips = measured(sounding_plugin, deep(2.0, 1.0), deep(3.0, 2.0), functions=functions)
    assert "cannot be differentiated once more" in skips[0]
    assert "regime" not in found
    assert found["relative_kernel_change"] == pytest.approx(13 / 5 - 1, rel=1e-4)
