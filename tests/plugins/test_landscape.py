"""Slices of quadratics, whose shape is known along every direction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Curve, Reading, Skip
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.landscape import filter_direction, landscape

SQUARED = {"loss": lambda outputs, targets, inputs: (outputs[:, 0] - targets) ** 2}


def linear() -> tuple[nn.Linear, Probe]:
    torch.manual_seed(0)
    inputs = torch.randn(40, 4) * torch.tensor([3.0, 2.0, 1.0, 0.5])
    return nn.Linear(4, 1, bias=False), Probe(train=(inputs, torch.randn(40)), heldout=(inputs[:9], torch.zeros(9)))


def curves(findings: Sequence[Any], metric: str, split: str = "train") -> dict[str, Curve]:
    return {
        each.part: each
        for each in findings
        if isinstance(each, Curve) and each.metric == metric and each.split == split
    }


def test_slices_of_a_quadratic(sounding_plugin: Trial):
    net, probe = linear()
    found = sounding_plugin(landscape, model=net, probe=probe, functions=SQUARED, points=5, plane="hessian",
                            plane_points=3)  # fmt: skip
    x, y = (each.double().numpy() for each in probe.train)
    w = net.weight.detach().double().numpy()[0]
    norm, g = np.linalg.norm(w), 2 * x.T @ (x @ w - y) / len(x)
    values, vectors = np.linalg.eigh(2 * x.T @ x / len(x))

    def loss(at: Any) -> float:
        return float(np.mean((x @ at - y) ** 2))

    gradient = curves(found, "loss_gradient")[""]
    assert gradient.x == pytest.approx((-0.1, -0.05, 0.0, 0.05, 0.1))
    expected = [loss(w + s * norm * g / np.linalg.norm(g)) for s in gradient.x]
    assert gradient.y == pytest.approx(expected, rel=1e-5)
    for number, axis in enumerate(curves(found, "loss_hessian").values()):
        value = values[-1 - number]
        bend = (axis.y[0] + axis.y[-1]) / 2 - axis.y[2]
        assert bend == pytest.approx(value * (0.1 * norm) ** 2 / 2, rel=1e-2)
        rises = [each for each in found if isinstance(each, Reading) and each.metric == "rise_hessian"]
        assert rises[2 * number].value == pytest.approx(bend)
    plane = curves(found, "loss_plane")
    assert list(plane) == ["-0.1", "+0", "+0.1"]
    assert plane["+0"].y[1] == pytest.approx(loss(w), rel=1e-5)
    away = plane["+0.1"].y[1]
    assert away in [pytest.approx(loss(w + sign * 0.1 * norm * vectors[:, -2]), rel=1e-3) for sign in (-1, 1)]


def test_a_random_direction_has_the_norms_of_the_filters():
    torch.manual_seed(1)
    parameters = {"conv.weight": torch.randn(5, 3, 2, 2), "conv.bias": torch.randn(5), "w": torch.zeros(2, 3)}
    found = filter_direction(parameters, 4)
    assert set(found) == {"conv.weight", "w"}
    assert found["conv.weight"].flatten(1).norm(dim=1).tolist() == pytest.approx(
        parameters["conv.weight"].flatten(1).norm(dim=1).tolist(), rel=1e-6
    )
    assert torch.equal(found["w"], torch.zeros(2, 3))
    assert torch.equal(filter_direction(parameters, 4)["conv.weight"], found["conv.weight"])
    assert not torch.equal(filter_direction(parameters, 5)["conv.weight"], found["conv.weight"])


def test_batch_norm_is_gathered_anew_or_not_as_is_said(sounding_plugin: Trial):
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        net[0].weight.mul_(10.0)
    probe = Probe(train=(torch.randn(64, 4), torch.randint(0, 3, (64,))))
    given: dict[str, Any] = {"model": net, "probe": probe, "points": 3, "axes": 0}
    anew = curves(sounding_plugin(landscape, **given), "loss_filter")[""]
    stored = curves(sounding_plugin(landscape, statistics="stored", **given), "loss_filter")[""]
    with torch.no_grad():
        as_it_is = nn.functional.cross_entropy(net(probe.train[0]), probe.train[1]).item()
    assert stored.y[1] == pytest.approx(as_it_is, rel=1e-5)
    assert anew.y[1] != pytest.approx(as_it_is, rel=1e-2)


def test_what_has_no_hessian_still_has_slices(sounding_plugin: Trial):
    net, probe = linear()
    rough = {"loss": lambda outputs, targets, inputs: (outputs[:, 0] - targets).detach() ** 2}
    found = sounding_plugin(landscape, model=net, probe=probe, functions=rough, points=3)
    assert curves(found, "loss_filter")
    assert not curves(found, "loss_hessian")
    assert not curves(found, "loss_gradient")
    assert [each.reason for each in found if isinstance(each, Skip)] == [
        "Hessian axes: every second derivative is zero"
    ]


def test_a_diverged_checkpoint_has_no_surroundings(sounding_plugin: Trial):
    net, probe = linear()
    with torch.no_grad():
        net.weight[0, 0] = torch.nan
    found = sounding_plugin(landscape, model=net, probe=probe, functions=SQUARED)
    assert [type(each) for each in found] == [Skip]
