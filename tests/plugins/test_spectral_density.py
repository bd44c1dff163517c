"""Densities of regressions known in closed form, and the criteria's flags."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Curve, Reading, Skip
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.spectral_density import spectral_density


def squared(outputs: Any, targets: Any, inputs: Any):
    return ((outputs - targets) ** 2).mean(1)


def downwards(outputs: Any, targets: Any, inputs: Any):
    return -((outputs - targets) ** 2).mean(1)


@pytest.fixture
def regression():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 30, generator=generator)
    return Probe(train=(inputs, torch.zeros(80, 1)))


def test_linear_regression_in_closed_form(sounding_plugin: Trial, regression: Probe):
    model = nn.Linear(30, 1, bias=False)
    found = sounding_plugin(spectral_density, model=model, probe=regression, functions={"loss": squared})
    inputs = regression.train[0].double()
    truth = torch.linalg.eigvalsh(2 * inputs.T @ inputs / 80).numpy()
    density = next(each for each in found if isinstance(each, Curve))
    nodes, weights = np.array(density.x), np.array(density.y)
    assert density.depth == 32
    assert weights.sum() == pytest.approx(1.0)
    assert nodes[-5:] == pytest.approx(truth[-5:], rel=1e-3)
    assert weights[-5:] == pytest.approx([1 / 30] * 5)
    ratio = next(each for each in found if isinstance(each, Reading) and each.metric == "re")
    assert ratio.value == pytest.approx(truth[0] / truth[-1], rel=1e-2)  # after 30 steps all is known
    assert next(each for each in found if isinstance(each, Reading) and each.metric == "kh").value == 0.0


def test_spectra_that_are_mostly_negative_are_flagged(sounding_plugin: Trial, regression: Probe):
    model = nn.Linear(30, 1, bias=False)
    found = sounding_plugin(spectral_density, model=model, probe=regression, functions={"loss": downwards})
    assert any("most of the curvature is negative" in each.reason for each in found if isinstance(each, Skip))
    assert {each.quality for each in found if isinstance(each, Reading) and each.label is None} <= {"unresolved"}
    assert any(isinstance(each, Curve) for each in found)


def test_a_diverged_network_says_so(sounding_plugin: Trial, regression: Probe):
    model = nn.Linear(30, 1, bias=False)
    nn.init.constant_(model.weight, float("inf"))
    found = sounding_plugin(spectral_density, model=model, probe=regression, functions={"loss": squared})
    assert [type(each) for each in found] == [Skip]
