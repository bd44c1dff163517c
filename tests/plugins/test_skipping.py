"""What all plugins about a loss's surroundings owe: to skip, with the reason, a network that has none."""

from typing import Any

import pytest
import torch
from torch import nn

from sounding.measuring.discovery import load
from sounding.probe import Probe
from sounding.testing import Trial

PROBE = Probe(train=(torch.randn(16, 4), torch.arange(16) % 3), heldout=(torch.randn(8, 4), torch.arange(8) % 3))


class Noisy(nn.Linear):
    """It draws random numbers also in evaluation mode."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * (1 + 0.1 * torch.randn_like(input[:, :1]))


def skipped(trial: Trial, name: str, net: nn.Module, probe: Probe = PROBE, **options: Any) -> str:
    """Why a plugin was skipped as a whole."""
    plugin = load().plugins[name]
    previous = {"model": nn.Linear(4, 3).state_dict()} if plugin.over == "pair" else None
    found = trial(plugin, model=net, probe=probe, previous=previous, attributes={"batch_size": 4}, **options)
    assert not [each for each in found if not hasattr(each, "reason")]
    return trial.reason


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sam_sharpness", {}),
        ("batch_sharpness", {}),
        ("batch_hessian", {"sizes": (2, 4)}),
        ("landscape", {}),
        ("landscape_update", {}),
        ("interpolation", {}),
        ("interpolation_first", {}),
        ("sharpness", {}),
        ("spectral_density", {}),
        ("subspace_overlap", {}),
    ],
)
def test_a_network_that_draws_random_numbers(sounding_plugin: Trial, name: str, options: dict[str, Any]):
    torch.manual_seed(0)
    reason = skipped(sounding_plugin, name, Noisy(4, 3), **options)
    assert "draws random numbers in evaluation mode" in reason


@pytest.mark.parametrize("name", ["sharpness", "landscape", "sam_sharpness"])
def test_a_frozen_network(sounding_plugin: Trial, name: str):
    reason = skipped(sounding_plugin, name, nn.Linear(4, 3).requires_grad_(False))
    assert "no parameter of the network requires a gradient" in reason


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


ONE = Probe(train=(PROBE.train[0][:1], PROBE.train[1][:1]))  # type: ignore[index]


@pytest.mark.parametrize("name", ["landscape", "landscape_update", "interpolation", "symmetry", "batch_hessian"])
def test_batch_norm_and_a_single_example(sounding_plugin: Trial, name: str):
    torch.manual_seed(0)
    plugin = load().plugins[name]
    previous = {"model": normalised().state_dict()} if plugin.over == "pair" else None
    assert not sounding_plugin(plugin, model=normalised(), probe=ONE, previous=previous)
    assert "BatchNorm1d cannot normalise by a batch with one value per channel" in sounding_plugin.reason


def test_a_single_image_has_a_value_at_every_place(sounding_plugin: Trial):
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3))
    image = Probe(train=(torch.randn(1, 1, 3, 3), torch.zeros(1, dtype=torch.long)))
    assert sounding_plugin(load().plugins["landscape"], model=net, probe=image, axes=0, points=3)
    assert sounding_plugin.reason == ""
