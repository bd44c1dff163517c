"""Networks that rely on two directions, on low frequencies, or on three Fourier components, by construction."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Curve, Reading, Skip
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.simplicity_bias import simplicity_bias

GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(200, 20, generator=GENERATOR)
PLANE = torch.linalg.qr(torch.randn(20, 2, generator=GENERATOR))[0]


def measured(
    trial: Trial, model: nn.Module, probe: Probe, **more: Any
) -> tuple[dict[Any, Reading], dict[str, Curve], dict[str, str]]:
    found = trial(simplicity_bias, model=model, probe=probe, **more)
    readings = {(each.metric, each.index): each for each in found if isinstance(each, Reading)}
    curves = {each.metric: each for each in found if isinstance(each, Curve)}
    return readings, curves, {each.part: each.reason for each in found if isinstance(each, Skip)}


def planar(noise: float = 0.0) -> Any:
    """A network whose first layer sees a plane of the input, and little else."""
    torch.manual_seed(2)
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(16, 2) @ PLANE.T + noise * torch.randn(16, 20))
    return model


def test_a_network_of_rank_two_relies_on_two_directions(sounding_plugin: Trial):
    model = planar()
    probe = Probe(train=(INPUTS, torch.zeros(200, dtype=torch.long)))
    counted: list[int] = []

    def forward(net: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        counted.append(len(rows))
        return net(rows)

    readings, curves, skips = measured(sounding_plugin, model, probe, tolerance=0.0, functions={"forward": forward})
    assert readings["preserving_rank", None].value == 2
    assert readings["input_dimension", None].value == 20
    assert readings["prediction_change_complement", None].value == 0.0
    assert readings["logit_change_complement", None].value == pytest.approx(0.0, abs=1e-5)
    assert curves["change_by_rank"].x == (1.0, 2.0)
    assert curves["change_by_rank"].y[0] > 0.1
    # With the plane swapped, the network sees the other example only.
    swapped = readings["prediction_change_projection", None]
    assert swapped.value > 0.3
    assert swapped.stderr == pytest.approx(math.sqrt(swapped.value * (1 - swapped.value) / 199), rel=1e-9)
    assert readings["preserving_rank", None].split == "train"
    assert "no images" in skips["accuracy_band_only"]
    # Two examples to find the layer, then all of them: as they are, at rank one, at rank two, and the plane swapped.
    assert readings["forwards", None].value == 2 + 4 * 200 == sum(counted) / 2  # it is measured twice


def test_swapping_is_what_the_formula_says(sounding_plugin: Trial):
    model = planar(noise=0.2)
    probe = Probe(train=(INPUTS, torch.zeros(200, dtype=torch.long)))
    readings, curves, _ = measured(sounding_plugin, model, probe, tolerance=0.1)
    rank = int(readings["preserving_rank", None].value or 0)
    assert 2 < rank < 16
    basis = torch.linalg.svd(model[1].weight.detach())[2][:rank].T
    inside = basis @ basis.T
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    other = torch.empty_like(INPUTS)
    other[shuffled] = INPUTS[shuffled.roll(1)]
    with torch.no_grad():
        before = model(INPUTS)
        outside_swapped = model(INPUTS @ inside + other @ (torch.eye(20) - inside))
        inside_swapped = model(other @ inside + INPUTS @ (torch.eye(20) - inside))
    for after, name in ((outside_swapped, "complement"), (inside_swapped, "projection")):
        change = ((after - before).norm(dim=1) / before.norm(dim=1)).mean()
        assert readings[f"logit_change_{name}", None].value == pytest.approx(float(change), rel=1e-4)
        moved = (after.argmax(1) != before.argmax(1)).double().mean()
        assert readings[f"prediction_change_{name}", None].value == pytest.approx(float(moved))
    places = dict(zip(curves["change_by_rank"].x, curves["change_by_rank"].y, strict=True))
    assert places[rank] <= 0.1 < places[rank - 1]


def test_without_classes_the_logits_decide(sounding_plugin: Trial):
    readings, _, skips = measured(sounding_plugin, planar(), Probe(train=(INPUTS, torch.zeros(200, 4))), tolerance=1e-4)
    assert readings["preserving_rank", None].value == 2
    assert ("prediction_change_complement", None) not in readings
    assert "no images" in skips["accuracy_band_only"]


class LowPass(nn.Module):
    """Classifies by the sign of one slow wave in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 2, bias=False)
        wave = torch.cos(2 * math.pi * torch.arange(8) / 8)
        with torch.no_grad():
            self.layer.weight.copy_(torch.stack([wave.repeat(8), -wave.repeat(8)]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


def test_a_classifier_of_low_frequencies(sounding_plugin: Trial):
    model = LowPass()
    images = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        probe = Probe(train=(images[:4], torch.zeros(4, dtype=torch.long)), heldout=(images, model(images).argmax(1)))
    readings, _, _ = measured(sounding_plugin, model, probe, bands=9)
    assert readings["accuracy", None].value == 1.0
    assert readings["accuracy", None].split == "heldout"
    assert readings["accuracy_band_only", 1].value == 1.0
    assert readings["accuracy_band_only", 1].group == "[1, 2)"
    for index in (0, 2, 3, 4, 5, 6, 7, 8):
        assert readings["accuracy_band_removed", index].value == 1.0
        assert abs(readings["accuracy_band_only", index].value - 0.5) < 0.15  # of what is not seen, rounding is left
    assert abs(readings["accuracy_band_removed", 1].value - 0.5) < 0.15
    assert readings["preserving_rank", None].value == 1
    rows = Probe(train=(images.flatten(1), probe.heldout[1]))
    again, _, skips = measured(sounding_plugin, model, rows, bands=9, image_shape=(8, 8))
    assert again["accuracy_band_only", 1].value == 1.0
    skips = measured(sounding_plugin, model, rows, image_shape=(3, 8))[2]
    assert "does not fit" in skips["accuracy_band_only"]


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(2, 12)
        self.tokens = nn.Embedding(115, 12)
        angles = 2 * math.pi * torch.arange(113)[:, None] * torch.tensor([3, 30, 41]) / 113
        with torch.no_grad():
            self.tokens.weight[:113, :6] = torch.cat([angles.cos(), angles.sin()], dim=1)
            self.tokens.weight[:113, 6:] = 0.5
        self.out = nn.Linear(12, 113)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.tokens(x).sum(1))


def test_planted_frequencies_of_a_cyclic_vocabulary(sounding_plugin: Trial):
    pairs = torch.randint(0, 113, (20, 2), generator=torch.Generator().manual_seed(0))
    probe = Probe(train=(pairs, pairs.sum(1) % 113))
    readings, curves, skips = measured(sounding_plugin, Table(), probe, cyclic=113)
    found = readings["fourier_effective_number", None]
    assert (found.value, found.part) == (pytest.approx(3.0, rel=1e-5), "tokens.weight")
    assert readings["fourier_gini", None].value == pytest.approx(1 - 3 / 56, rel=1e-5)
    assert [x for x, y in zip(curves["fourier_power"].x, curves["fourier_power"].y, strict=True) if y > 0.3] == [
        3,
        30,
        41,
    ]
    assert "no tensor of numbers" in skips["preserving_rank"]
    assert skips["accuracy_band_only"] == "inputs are no images"
    out = measured(sounding_plugin, Table(), probe, cyclic=113, embedding="out.weight")[0]
    assert out["fourier_effective_number", None].value > 30
    assert "`cyclic`" in measured(sounding_plugin, Table(), probe)[2]["fourier_effective_number"]
    nowhere = measured(sounding_plugin, Table(), probe, cyclic=113, embedding="tokens")[2]
    assert (
        nowhere["fourier_effective_number"] == "`tokens` is no parameter with 113 rows or more (`cyclic`, `embedding`)"
    )


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2)), torch.randn(9, 1, 8, 8), "a Conv2d"),
        (nn.Sequential(nn.Tanh(), nn.Linear(5, 2)), torch.randn(9, 5), "not the input itself"),
        (nn.Sequential(nn.Linear(5, 2), nn.Flatten()), torch.randn(9, 3, 5), "something else than one row"),
        (Idle(), torch.randn(9, 5), "no layer with weights"),
    ],
)
def test_where_there_is_no_projection_of_the_input(sounding_plugin: Trial, model: Any, inputs: Any, reason: str):
    probe = Probe(train=(inputs, torch.zeros(9, dtype=torch.long)))
    assert reason in measured(sounding_plugin, copy.deepcopy(model), probe)[2]["preserving_rank"]
