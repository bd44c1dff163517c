"""Layers that are copies of each other, and layers that are not."""

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
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
    found = {each.part: each for each in sounding_plugin(layer_similarity, model=net, probe=probe)}
    assert isinstance(found["0 ~ 1"], Reading)
    assert found["0 ~ 1"].value == pytest.approx(1.0, abs=1e-5)
    assert {"0 ~ head", "1 ~ head"} <= set(found)
    assert found["1 ~ head"].value < 1.0  # type: ignore[union-attr, operator]
    few = sounding_plugin(layer_similarity, model=net, probe=probe, most_layers=2)
    assert len(few) == 1


def test_too_few_examples_say_so(sounding_plugin: Trial):
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    probe = Probe(train=(torch.randn(3, 6), torch.randint(0, 3, (3,))))
    assert [type(each) for each in sounding_plugin(layer_similarity, model=net, probe=probe)] == [Skip]
