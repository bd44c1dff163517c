"""Adam's moments against torch's own updates, and against gradients whose mean and noise are known."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.testing import Trial
from sounding_plugins.optimizer_state import optimizer_state, spike_threshold

PLUGIN: Any = optimizer_state


def readings(findings: Any) -> dict[tuple[str, str], Reading]:
    return {(each.metric, each.part or each.group): each for each in findings if isinstance(each, Reading)}


def fed(gradients: torch.Tensor, **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A parameter of the gradients' shape that Adam was given, one after the other; its rate is zero until the last."""
    model = nn.Module()
    model.w = nn.Parameter(torch.ones(gradients.shape[1:], dtype=gradients.dtype))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, **settings)
    for gradient in gradients:
        model.w.grad = gradient.clone()
        optimizer.step()
    return model, optimizer


def saved(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def test_the_update_is_the_one_that_torch_made(sounding_plugin: Trial):
    gradients = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model, optimizer = fed(gradients[:4])
    optimizer.param_groups[0]["lr"] = 0.01
    before = model.w.detach().clone()
    model.w.grad = gradients[4].clone()
    optimizer.step()
    moved = before - model.w.detach()
    found = readings(sounding_plugin(PLUGIN, checkpoint=saved(model, optimizer)))
    assert found["update_rms", "w"].value == pytest.approx(float(moved.norm()) / 0.01 / math.sqrt(24))
    assert found["update_ratio", "w"].value == pytest.approx(float(moved.norm() / model.w.detach().norm()))
    cosine = float((moved * model.w.detach()).sum() / moved.norm() / model.w.detach().norm())
    assert found["update_cosine", "w"].value == pytest.approx(cosine)


@pytest.mark.parametrize("steps", [30, 400])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_mean_and_noise_of_the_gradients_are_told_apart(sounding_plugin: Trial, steps: int, strength: float):
    generator = torch.Generator().manual_seed(steps)
    mean = strength * torch.randn(100, 60, generator=generator, dtype=torch.float64)
    noise = torch.randn(steps, 100, 60, generator=generator, dtype=torch.float64)
    found = readings(sounding_plugin(PLUGIN, checkpoint=saved(*fed(mean + noise, betas=(0.9, 0.99)))))
    assert found["noise_trace", "w"].value == pytest.approx(6000, rel=0.1)
    assert found["signal", ""].value == pytest.approx(float(mean.square().sum()), abs=0.1 * 6000)
    if strength == 0.0:
        kappa = 0.1 / 1.9 * (1 + 0.9**steps) / (1 - 0.9**steps)
        assert found["coherence", "w"].value == pytest.approx(kappa, rel=0.1)


def test_scales_that_were_planted(sounding_plugin: Trial):
    rows = torch.tensor([1.0, math.e**2]).double()
    gradients = (rows[:, None] * torch.ones(2, 3)).repeat(3, 1, 1)
    found = readings(sounding_plugin(PLUGIN, checkpoint=saved(*fed(gradients))))
    for metric in ("second_moment_spread", "row_spread"):
        assert found[metric, "w"].value == pytest.approx(1.0)  # ln of 1 and e²: 1 to either side of their mean
    assert found["below_epsilon", "w"].value == 0.0
    quiet = readings(sounding_plugin(PLUGIN, checkpoint=saved(*fed(gradients, eps=2.0))))
    assert quiet["below_epsilon", "w"].value == 0.5


def test_a_spike_in_the_last_gradient_shows(sounding_plugin: Trial):
    gradients = torch.randn(300, 50, 40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    calm = readings(sounding_plugin(PLUGIN, checkpoint=saved(*fed(gradients))))
    assert calm["spike_share", "w"].value == 0.0
    gradients[-1, 0, :10] = 300.0  # its square is far over 5000 times the second moment
    spiked = readings(sounding_plugin(PLUGIN, checkpoint=saved(*fed(gradients))))
    assert spiked["spike_share", "w"].value == pytest.approx(10 / 2000)
    assert spike_threshold(0.9, 0.999) == pytest.approx(50 / 5.999)


def test_shares_and_spread_of_layers(sounding_plugin: Trial):
    model = nn.Sequential()
    for name, size, scale in (("fc", 4, 1.0), ("norm", 2, 2.0), ("head", 4, 1.0)):
        layer = nn.Module()
        layer.weight = nn.Parameter(torch.ones(size, dtype=torch.float64))
        layer.weight.grad = torch.full((size,), scale, dtype=torch.float64)
        model.add_module(name, layer)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    found = readings(sounding_plugin(PLUGIN, checkpoint=saved(model, optimizer)))
    assert found["second_moment_share", "head"].value == pytest.approx(4 / 16)
    assert found["second_moment_share", "norm"].value == pytest.approx(8 / 16)
    logs = torch.tensor([0.0, math.log(2), 0.0]).double()
    assert found["layer_spread", ""].value == pytest.approx(float(logs.std(correction=0)))
    assert ("noise_trace", "fc.weight") not in found  # after one update


def test_of_other_optimizers_the_size_of_what_they_keep(sounding_plugin: Trial):
    model = nn.Linear(3, 2)
    model(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.step()
    found = sounding_plugin(PLUGIN, checkpoint=saved(model, optimizer))
    assert {(each.metric, each.part, each.group): each.value for each in found if isinstance(each, Reading)} == {
        ("state_rms", "weight", "momentum_buffer"): pytest.approx(math.sqrt(14 / 3)),
        ("state_rms", "bias", "momentum_buffer"): pytest.approx(1.0),
    }
    assert [each.reason.rpartition(" ")[2] for each in found if isinstance(each, Skip)] == ["sgd"]


def test_of_unknown_optimizers_too(sounding_plugin: Trial):
    kept = {"step": 3, "scale": torch.tensor(2.0), "slow": torch.full((2, 3), -4.0),
            "factors": [torch.ones(2, 2), torch.full((3, 4), 3.0)], "lost": torch.full((2,), math.inf)}  # fmt: skip
    tree = {"state": {0: kept}, "param_groups": [{"lr": 0.1, "boldness": 2.0, "params": [0]}]}
    found = sounding_plugin(PLUGIN, checkpoint={"model": {"w": torch.ones(2, 3)}, "optimizer": tree})
    values = {each.group: each.value for each in found if isinstance(each, Reading)}
    assert values == {"slow": 4.0, "factors": pytest.approx(math.sqrt((4 + 12 * 9) / 16))}
    assert any(isinstance(each, Skip) and "lost" in each.reason and each.part == "w" for each in found)


def test_moments_that_are_no_numbers_are_left_out(sounding_plugin: Trial):
    model, optimizer = fed(torch.full((2, 3, 3), math.nan, dtype=torch.float64))
    found = sounding_plugin(PLUGIN, checkpoint=saved(model, optimizer))
    assert any(isinstance(each, Skip) and each.part == "w" and "not finite" in each.reason for each in found)
    assert not any(isinstance(each, Reading) for each in found)
