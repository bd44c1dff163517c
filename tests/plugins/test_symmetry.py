"""Scale-invariant weights as readings, in a network whose answer is known."""

from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.passes import ScaleInvariance, Symmetries, Weights
from sounding.passes.magnitudes import magnitudes
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.symmetry import symmetry


def test_a_network_with_batch_norm(sounding_plugin: Trial):
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    nn.init.normal_(model[1].bias)
    probe = Probe(train=(torch.randn(30, 6), torch.zeros(30, dtype=torch.long)))
    measured: Any = symmetry
    found = sounding_plugin(measured, model=model, probe=probe)
    readings = {(each.metric, each.part): each for each in found if isinstance(each, Reading)}
    assert readings["slices", "0.weight"].value == 4
    assert [part for metric, part in readings if metric == "slices"] == ["0.weight"]
    assert readings["departure", "0.weight"].value < 1e-4 < 0.03 < readings["departure", "3.weight"].value
    total = readings["scale_invariant_total", ""]
    assert total.value == pytest.approx(float(model[0].weight.detach().double().norm()), rel=1e-6)
    assert total.kind == "symmetry"
    assert [each.part for each in found if isinstance(each, Skip)] == ["0.bias"]


def test_joint_rescalings_are_numbered():
    state = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    found = Symmetries(ScaleInvariance({}), {"a": 0.5, "b": 0.5}, ({"a": 1.0, "b": -1.0},), ())
    readings: list[Any] = list(symmetry(found, Weights(state), magnitudes(Weights(state))))
    exponents = [(each.part, each.value, each.index) for each in readings if each.metric == "exponent"]
    assert exponents == [("a", 1.0, 0), ("b", -1.0, 0)]
    assert "scale_invariant_total" not in {each.metric for each in readings}
