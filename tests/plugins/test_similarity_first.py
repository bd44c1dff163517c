"""The first checkpoint as the other one; what is told is tested with the preceding one."""

import pytest
import torch
from torch import nn

from sounding import Reading
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.similarity_first import similarity_first


def test_it_compares_with_the_first(sounding_plugin: Trial):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    probe = Probe(train=(torch.randn(30, 4), torch.randint(0, 2, (30,))))
    found = sounding_plugin(similarity_first, model=net, probe=probe, previous={"model": net.state_dict()})
    values = {each.metric: each.value for each in found if isinstance(each, Reading) and each.part == "head"}
    assert (values["cka_debiased"], values["procrustes_distance"]) == pytest.approx((1.0, 0.0), abs=1e-5)
    assert similarity_first.against == "first"
