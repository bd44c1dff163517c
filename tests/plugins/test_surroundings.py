"""What all plugins about a loss's surroundings owe: to say what they rest on, and to skip a network that has none."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading
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


RUNNING, ANEW = "BatchNorm by running statistics", "BatchNorm's statistics gathered anew from 16 examples of train"
TOLD: dict[str, tuple[str, ...]] = {
    "sharpness": (RUNNING, "21 parameters"),
    "spectral_density": (RUNNING, "21 parameters"),
    "subspace_overlap": (RUNNING, "21 parameters"),
    "sam_sharpness": (RUNNING, "21 parameters", "averages over 16 draws, each with its opposite, seed 0"),
    "batch_sharpness": ("BatchNorm by batches of 4", "21 parameters", "batches: 4 of 4"),
    "batch_hessian": ("BatchNorm by batches of 16", "21 parameters", "batches: 1 of 16"),
    "landscape": (ANEW,),
    "landscape_update": (ANEW,),
    "interpolation": (ANEW,),
    "interpolation_first": (ANEW,),
}


@pytest.mark.parametrize("name", TOLD)
def test_all_say_what_their_numbers_rest_on(sounding_plugin: Trial, name: str):
    torch.manual_seed(0)
    plugin = load().plugins[name]
    previous = {"model": normalised().state_dict()} if plugin.over == "pair" else None
    options: dict[str, Any] = {"sizes": (4, 8)} if name == "batch_hessian" else {}
    found = sounding_plugin(
        plugin, model=normalised(), probe=PROBE, previous=previous, attributes={"batch_size": 4}, **options
    )
    labels = {
        (each.split, each.kind, each.group): each.label or ""
        for each in found
        if isinstance(each, Reading) and each.metric == "conditions"
    }
    for (split, _, _), label in labels.items():
        size = {"train": 16, "heldout": 8}[split]
        start = f"cross-entropy, weighted mean over examples; {size} examples of {split}, subset "
        assert label.startswith(start)
        assert re.fullmatch(r"[0-9a-f]{16}", label.removeprefix(start).partition(";")[0])
        assert "; float32" in label
    first = next(iter(labels.values()))
    assert not [words for words in TOLD[name] if f"; {words}" not in first]
    if name == "batch_hessian":
        assert "; batches: 2 of 8" in labels["train", "", "B=8"]
    if name == "landscape":
        assert f"; {RUNNING}; 21 parameters" in labels["train", "hessian", ""]


def test_whose_loss_and_what_was_done_to_it_is_told(sounding_plugin: Trial):
    given: dict[str, Any] = {"model": nn.Linear(4, 3), "probe": PROBE, "m": 16, "draws": 2, "normalise_logits": True}
    functions = {"loss": lambda outputs, targets, inputs: outputs[:, 0]}
    found = sounding_plugin(load().plugins["sam_sharpness"], functions=functions, **given)
    (label,) = [each.label or "" for each in found if isinstance(each, Reading) and each.metric == "conditions"]
    assert label.startswith("the recipe's loss, ")
    assert "; no BatchNorm; 15 parameters; float32; of normalised logits; averages over 2 draws" in label
