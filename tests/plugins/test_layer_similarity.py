"""Layers that are copies of each other, and layers that are not."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from torch import nn

from sounding import Reading, Skip
from sounding.geometry.similarity import procrustes_distance
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.layer_similarity import layer_similarity


def test_every_two_layers_are_compared(sounding_plugin: Trial):
    torch.manual_seed(0)
    same = nn.Linear(8, 8)
    with torch.no_grad():
        nn.init.orthogonal_(same.weight)
    net = nn.Sequential(nn.Linear(6, 8), same, nn.Tanh(), nn.Linear(8, 3))
    probe = Probe(train=(torch.randn(50, 6), torch.randint(0, 3, (50,))))
    told = sounding_plugin(layer_similarity, model=net, probe=probe)
    found = {each.part: each for each in told if each.metric == "cka_debiased"}  # type: ignore[union-attr]
    assert isinstance(found["0 ~ 1"], Reading)
    assert found["0 ~ 1"].value == pytest.approx(1.0, abs=1e-5)
    assert {"0 ~ head", "1 ~ head"} <= set(found)
    assert found["1 ~ head"].value < 1.0  # type: ignore[union-attr, operator]
    few = sounding_plugin(layer_similarity, model=net, probe=probe, most_layers=2)
    assert [each.metric for each in few] == ["cka_debiased", "procrustes_distance"]  # type: ignore[union-attr]
    distances = {each.part: each for each in told if each.metric == "procrustes_distance"}  # type: ignore[union-attr]
    assert distances["0 ~ 1"].value == pytest.approx(0.0, abs=1e-5)  # type: ignore[union-attr]
    assert set(distances) == set(found)


def test_distances_of_layers_of_different_widths_are_those_of_the_definition(sounding_plugin: Trial):
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs = torch.randn(50, 6)
    told = sounding_plugin(layer_similarity, model=net, probe=Probe(train=(inputs, torch.randint(0, 3, (50,)))))
    (distance,) = [each.value for each in told if isinstance(each, Reading) and each.part == "0 ~ 2"
                   and each.metric == "procrustes_distance"]  # fmt: skip
    wide, narrow = (rows.detach().double().numpy() for rows in (net[0](inputs), net[:3](inputs)))
    filled = np.concatenate([narrow, np.zeros((50, 3))], axis=1)
    assert distance == pytest.approx(2 - 2 * math.sqrt(1 - procrustes(wide, filled)[2]), rel=1e-4)


def test_two_dimensions_are_at_a_distance_of_one_from_eight_that_vary_equally():
    generator = torch.Generator().manual_seed(0)
    white, _ = torch.linalg.qr(torch.randn(60, 9, dtype=torch.float64, generator=generator))
    eight = torch.linalg.qr(white - white.mean(0))[0][:, :8]
    assert procrustes_distance(eight, eight[:, :2]) == pytest.approx(1.0, abs=1e-6)


def test_too_few_examples_say_so(sounding_plugin: Trial):
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    probe = Probe(train=(torch.randn(3, 6), torch.randint(0, 3, (3,))))
    assert [type(each) for each in sounding_plugin(layer_similarity, model=net, probe=probe)] == [Skip]
