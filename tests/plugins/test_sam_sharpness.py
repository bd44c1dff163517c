"""Rises on quadratics, where each follows from the Hessian, and what rescaling a unit does to them."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import nn

from sounding import Reading, Skip
from sounding.curvature.selection import subset_of
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.sam_sharpness import sam_sharpness

Floats = NDArray[np.float64]
EXAMPLES, INPUTS = 48, 6
SQUARED = {"loss": lambda outputs, targets, inputs: (outputs[:, 0] - targets) ** 2}


def linear() -> tuple[nn.Linear, Probe]:
    torch.manual_seed(0)
    inputs, targets = torch.randn(EXAMPLES, INPUTS), torch.randn(EXAMPLES)
    return nn.Linear(INPUTS, 1, bias=False), Probe(train=(inputs, targets))


def quadratic(net: nn.Linear, probe: Probe, rows: Sequence[int] = range(EXAMPLES)) -> tuple[Floats, Floats, Floats]:
    """Weights, gradient and Hessian of the mean squared error over some rows, in float64."""
    x, y = (each[list(rows)].double().numpy() for each in probe.train)
    w = net.weight.detach().double().numpy()[0]
    return w, 2 * x.T @ (x @ w - y) / len(x), 2 * x.T @ x / len(x)


def rise(g: Floats, h: Floats, d: Floats) -> float:
    return float(g @ d + d @ h @ d / 2)


def step(g: Floats, radius: float) -> Floats:
    return np.asarray(radius * g / np.linalg.norm(g))


def highest(g: Floats, h: Floats, radius: float) -> float:
    """The maximum of gᵀd + dᵀhd/2 within |d| = radius, from the secular equation."""
    values, vectors = np.linalg.eigh(h)
    along = vectors.T @ g

    def excess(shift: float) -> float:
        return float(np.linalg.norm(along / (shift - values)) - radius)

    shift = brentq(excess, values[-1] + 1e-9, values[-1] + np.linalg.norm(g) / radius + 1)
    return rise(g, h, vectors @ (along / (shift - values)))


def found(findings: Sequence[Any]) -> dict[str, Reading]:
    return {each.metric: each for each in findings if isinstance(each, Reading) and each.label is None}


@pytest.mark.parametrize("adaptive", [False, True])
def test_rises_of_a_quadratic(sounding_plugin: Trial, adaptive: bool):
    net, probe = linear()
    options: dict[str, Any] = {"rho": 0.4, "adaptive_rho": 0.6, "steps": 200, "m": 16, "draws": 64}
    options |= {"sigma": 0.1, "adaptive_sigma": 0.2}
    readings = found(sounding_plugin(sam_sharpness, model=net, probe=probe, functions=SQUARED, **options))
    w, g, h = quadratic(net, probe)
    prefix, radius, sigma = ("adaptive_", 0.6, 0.2) if adaptive else ("", 0.4, 0.1)
    t = np.diag(np.abs(w)) if adaptive else np.eye(INPUTS)
    g, h = t @ g, t @ h @ t  # in the coordinates in which the ellipsoid is a ball
    assert readings[f"{prefix}one_step"].value == pytest.approx(rise(g, h, step(g, radius)), rel=1e-4)
    worst = readings[f"{prefix}worst_case"]
    assert worst.quality == "ok"
    assert worst.value == pytest.approx(highest(g, h, radius), rel=5e-3)
    assert worst.value <= highest(g, h, radius) * (1 + 1e-4)
    order = subset_of(probe, "train", EXAMPLES).positions
    rises = []
    for start in range(0, EXAMPLES, 16):
        _, slope, curve = quadratic(net, probe, order[start : start + 16])
        rises.append(rise(t @ slope, t @ curve @ t, step(t @ slope, radius)))
    m_sharpness = readings[f"{prefix}m_sharpness"]
    assert m_sharpness.value == pytest.approx(np.mean(rises), rel=1e-4)
    assert m_sharpness.stderr == pytest.approx(np.std(rises, ddof=1) / math.sqrt(3), rel=1e-3)
    average = readings[f"{prefix}average_case"]
    assert average.stderr is not None
    assert average.stderr == pytest.approx(sigma**2 * np.linalg.norm(h) / math.sqrt(2 * 64), rel=0.4)
    assert average.value == pytest.approx(sigma**2 * np.trace(h) / 2, abs=4 * average.stderr)


def test_the_step_to_the_corner_of_a_box(sounding_plugin: Trial):
    net, probe = linear()
    options: dict[str, Any] = {"linf_rho": 0.3, "m": 16, "draws": 2, "steps": 2}
    plain = {"loss": lambda outputs, targets, inputs: outputs[:, 0] * targets}
    readings = found(sounding_plugin(sam_sharpness, model=net, probe=probe, functions=plain, **options))
    x, y = (each.double().numpy() for each in probe.train)
    w, g = net.weight.detach().double().numpy()[0], (x * y[:, None]).mean(0)
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=INPUTS))) * 0.3 * np.abs(w)
    boxed = readings["adaptive_one_step_linf"]
    assert boxed.group == "rho=0.3"
    assert boxed.value == pytest.approx(0.3 * float(np.abs(w) @ np.abs(g)), rel=1e-4)
    assert boxed.value == pytest.approx(max(corners @ g), rel=1e-4)  # a linear loss is highest at a corner
    readings = found(sounding_plugin(sam_sharpness, model=net, probe=probe, functions=SQUARED, **options))
    w, g, h = quadratic(net, probe)
    expected = rise(g, h, 0.3 * np.abs(w) * np.sign(g))
    assert readings["adaptive_one_step_linf"].value == pytest.approx(expected, rel=1e-4)
    assert expected <= max(rise(g, h, corner) for corner in corners) * (1 + 1e-9)


def test_every_reading_states_what_it_was_made_with(sounding_plugin: Trial):
    net, probe = linear()
    readings = found(sounding_plugin(sam_sharpness, model=net, probe=probe, functions=SQUARED, m=16, draws=2))
    assert readings["one_step"].group == "rho=0.05"
    assert readings["adaptive_m_sharpness"].group == "m=16, rho=0.5"
    assert readings["average_case"].group == "sigma=0.005"


def network() -> tuple[nn.Module, Probe]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return net, Probe(train=(torch.randn(32, 4), torch.randint(0, 3, (32,))))


def test_adaptive_ones_do_not_feel_a_rescaled_unit(sounding_plugin: Trial):
    net, probe = network()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for layer, factor in ((twin[0], 20.0), (twin[2], 1 / 20.0)):  # type: ignore[index]
            layer.weight.mul_(factor)
        twin[0].bias.mul_(20.0)  # type: ignore[index, union-attr, operator]
    options: dict[str, Any] = {"probe": probe, "m": 16, "draws": 3, "steps": 5}
    one, other = (found(sounding_plugin(sam_sharpness, model=each, **options)) for each in (net, twin))
    for metric, reading in one.items():
        if metric.startswith("adaptive_"):
            assert other[metric].value == pytest.approx(reading.value, rel=2e-3), metric
        else:
            assert other[metric].value != pytest.approx(reading.value, rel=0.05), metric


def test_normalised_logits_do_not_feel_the_scale_of_the_head(sounding_plugin: Trial):
    net, probe = network()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in twin[2].parameters():  # type: ignore[index]
            tensor.mul_(7.0)
    options: dict[str, Any] = {"probe": probe, "m": 16, "draws": 3, "steps": 3, "normalise_logits": True}
    one, other = (found(sounding_plugin(sam_sharpness, model=each, **options)) for each in (net, twin))
    assert one["adaptive_one_step"].group == "rho=0.5, normalised logits"
    assert other["adaptive_one_step"].value == pytest.approx(one["adaptive_one_step"].value, rel=1e-3)


def test_a_constant_loss_rises_nowhere_and_too_few_examples_make_no_batch(sounding_plugin: Trial):
    net, probe = linear()
    constant = {"loss": lambda outputs, targets, inputs: outputs[:, 0] * 0.0 + 1.0}
    findings = sounding_plugin(sam_sharpness, model=net, probe=probe, functions=constant, draws=2)
    readings = found(findings)
    assert {readings[name].value for name in ("one_step", "worst_case", "adaptive_worst_case", "average_case")} == {0.0}
    assert [each.reason for each in findings if isinstance(each, Skip)] == [
        "m_sharpness: there are fewer than m = 128 examples",
        "adaptive_m_sharpness: there are fewer than m = 128 examples",
    ]


class Formula(nn.Module):
    """A loss that is a function of two weights alone."""

    def __init__(self, loss: Callable[[torch.Tensor], torch.Tensor], weights: Sequence[float]) -> None:
        super().__init__()
        self.w, self.loss = nn.Parameter(torch.tensor(weights)), loss

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.loss(self.w) + 0.0 * inputs[:, 0]


def around(trial: Trial, loss: Callable[[torch.Tensor], torch.Tensor], weights: Sequence[float]) -> list[Any]:
    probe = Probe(train=(torch.ones(8, 1), torch.zeros(8)))
    given = {"loss": lambda outputs, targets, inputs: outputs}
    return trial(sam_sharpness, model=Formula(loss, weights), probe=probe, functions=given, rho=0.5, m=4, draws=2)


def test_a_step_beyond_the_top_of_a_hill_leads_down(sounding_plugin: Trial):
    readings = found(around(sounding_plugin, lambda w: -w.square().sum(), [0.06, 0.08]))
    for metric in ("one_step", "m_sharpness"):  # from 0.1 before the top to 0.4 behind it
        assert readings[metric].value == pytest.approx(0.1**2 - 0.4**2, rel=1e-5)
    worst = readings["worst_case"]
    assert (worst.value, worst.quality) == (0.0, "unconverged")


def test_where_no_direction_is_steepest_nothing_is_called_found(sounding_plugin: Trial):
    worst = found(around(sounding_plugin, lambda w: w.square().sum(), [0.0, 0.0]))["worst_case"]
    assert (worst.value, worst.quality) == (0.0, "unconverged")  # a quarter it is; the gradient does not lead there


def test_a_loss_that_is_no_number_does_not_rise(sounding_plugin: Trial):
    findings = around(sounding_plugin, lambda w: (w * 1e30).square().sum(), [1.0, 2.0])
    assert [type(each) for each in findings] == [Skip]
    assert "the mean loss is inf" in findings[0].reason


class Made:
    """A Dataset that counts what it is asked for."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.inputs, self.targets, self.asked = inputs, targets, 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += 1
        return self.inputs[place].clone(), self.targets[place]


def test_a_dataset_makes_its_examples_few_times_also_for_networks_that_write_to_their_input(sounding_plugin: Trial):
    net, probe = linear()

    def forward(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return module(inputs.mul_(2.0))

    given: dict[str, Any] = {"model": net, "functions": {**SQUARED, "forward": forward}, "m": 16}
    data = Made(*probe.train)
    made = found(sounding_plugin(sam_sharpness, probe=Probe(train=data), **given))
    assert made == found(sounding_plugin(sam_sharpness, probe=probe, **given))
    # Twice each: hashed, inputs and targets apart, measured as a whole, and in batches.
    assert data.asked <= 2 * 4 * EXAMPLES
    assert sounding_plugin.forwards > 60 * EXAMPLES
