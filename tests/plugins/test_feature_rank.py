"""Ranks of features as readings, against decompositions of the features themselves."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Curve, Finding, Reading, Skip
from sounding.geometry.ranks import effective_rank
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.feature_rank import feature_rank

FR: Any = feature_rank


def by_name(found: Iterable[Finding], split: str, part: str = "") -> dict[str, Reading]:
    return {
        each.metric: each for each in found if isinstance(each, Reading) and (each.split, each.part) == (split, part)
    }


def test_every_layer_and_split(sounding_plugin: Trial):
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight[1] = -2 * model[2].weight[0]  # a double
        model[2].weight[2] = 0  # dead
    x = torch.randn(120, 4)
    y = torch.zeros(120, dtype=torch.long)
    found = sounding_plugin(FR, model=model, probe=Probe(train=(x[:80], y[:80]), heldout=(x[80:], y[80:])))
    for split, inputs in (("train", x[:80]), ("heldout", x[80:])):
        for place, (name, depth) in enumerate((("0", 1), ("2", 3))):
            rows = model[:depth](inputs).detach().double()
            values = torch.linalg.svdvals(rows - rows.mean(0)).square()
            readings = by_name(found, split, name)
            assert readings["effective_rank"].value == pytest.approx(float(effective_rank(values)), rel=1e-4)
            assert readings["participation_ratio"].value == pytest.approx(
                float(values.sum() ** 2 / values.square().sum()), rel=1e-5
            )
            assert readings["stable_rank"].value == pytest.approx(float(values.sum() / values.max()), rel=1e-5)
            assert readings["effective_rank"].depth == place
        units = by_name(found, split, "2")
        assert (units["dead_units"].value, units["duplicate_units"].value) == (1, 1)
    assert by_name(found, "train", "4") != {}  # the head's own input, under its name


def test_regression_has_ranks_too(sounding_plugin: Trial):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 1))

    def squared(outputs: Any, targets: Any, inputs: Any):
        return ((outputs - targets) ** 2).mean(1)

    found = sounding_plugin(
        FR, model=model, probe=Probe(train=(torch.randn(50, 4), torch.randn(50, 1))), functions={"loss": squared}
    )
    assert 1 < by_name(found, "train", "0")["effective_rank"].value <= 4 + 1e-3


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11)

    def forward(self, tokens: Any):
        return self.head(self.mix(self.embed(tokens)))


def test_ranks_along_tokens(sounding_plugin: Trial):
    model = Speech()
    tokens = torch.randint(0, 11, (3, 160), generator=torch.Generator().manual_seed(0))
    targets = tokens.clone()
    targets[0, 80:] = -100  # the first sequence ends earlier
    found = sounding_plugin(FR, model=model, probe=Probe(train=(tokens, targets), unit="token"))
    (curve,) = [each for each in found if isinstance(each, Curve)]
    states = model.mix(model.embed(tokens)).detach().double()
    ranks = []
    for row, length in enumerate((80, 160, 160)):
        prefixes = [states[row, :end] - states[row, :end].mean(0) for end in range(32, length + 1, 32)]
        ranks.append([float(effective_rank(torch.linalg.svdvals(each).square())) for each in prefixes])
    assert curve.x == (32, 64, 96, 128, 160)
    assert curve.y[0] == pytest.approx(sum(each[0] for each in ranks) / 3, rel=1e-4)
    assert curve.y[4] == pytest.approx(sum(each[4] for each in ranks[1:]) / 2, rel=1e-4)
    velocities = [[er[t] - sum(er[:t]) / t for t in range(1, len(er))] for er in ranks]
    flat = [each for row in velocities for each in row]
    jerks = [b - a for row in velocities for a, b in pairwise(row)]
    readings = by_name(found, "train")
    assert readings["rank_velocity"].value == pytest.approx(sum(flat) / len(flat), rel=1e-3)
    assert readings["rank_acceleration"].value == pytest.approx(sum(jerks) / len(jerks), rel=1e-3)


def test_sequences_that_are_too_short_say_so(sounding_plugin: Trial):
    tokens = torch.randint(0, 11, (3, 20), generator=torch.Generator().manual_seed(0))
    found = sounding_plugin(FR, model=Speech(), probe=Probe(train=(tokens, tokens), unit="token"))
    assert [each.reason for each in found if isinstance(each, Skip)] == ["no sequence has `stride` = 32 tokens"]
    assert not any(isinstance(each, Curve) for each in found)
