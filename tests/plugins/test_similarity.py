"""Representations that were turned, and ones that were drawn anew."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.similarity import similarity


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def probe() -> Probe:
    torch.manual_seed(9)
    return Probe(train=(torch.randn(60, 6), torch.randint(0, 3, (60,))))


def readings(findings: Sequence[Any], part: str) -> dict[str, Reading]:
    return {each.metric: each for each in findings if isinstance(each, Reading) and each.part == part}


def test_a_turned_representation_is_the_same(sounding_plugin: Trial):
    here, there = network(0), network(0)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    with torch.no_grad():
        here[0].weight.copy_(turn @ there[0].weight)  # type: ignore[union-attr, operator]
        here[0].bias.copy_(turn @ there[0].bias)  # type: ignore[union-attr, operator]
    found = sounding_plugin(similarity, model=here, probe=probe(), previous={"model": there.state_dict()})
    first = readings(found, "0")
    assert first["cka_debiased"].value == pytest.approx(1.0, abs=1e-5)
    assert first["procrustes_distance"].value == pytest.approx(0.0, abs=1e-5)
    after = readings(found, "head")  # the nonlinearity does feel the turn
    assert after["cka_debiased"].value < 0.99
    assert after["procrustes_distance"].value > 0.01
    assert readings(found, "")["examples"].value == 60


def test_another_network_is_not(sounding_plugin: Trial):
    found = sounding_plugin(similarity, model=network(0), probe=probe(), previous={"model": network(5).state_dict()})
    head = readings(found, "head")
    assert 0.0 < head["cka_debiased"].value < 0.9
    assert head["cka_debiased"].stderr is not None
    assert head["cka_biased"].value > head["cka_debiased"].value


def test_a_still_representation_is_skipped(sounding_plugin: Trial):
    here = network(0)
    with torch.no_grad():
        here[0].weight.zero_()  # type: ignore[union-attr, operator]
    found = sounding_plugin(similarity, model=here, probe=probe(), previous={"model": network(0).state_dict()})
    assert {each.part for each in found if isinstance(each, Skip)} >= {"0", "head"}
    assert readings(found, "0") == {}
