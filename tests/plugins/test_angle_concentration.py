"""Cosines between tokens, taken pair by pair."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Reading
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.angle_concentration import angle_concentration


class Language(nn.Module):
    """An embedding, a layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 6)
        self.layer = nn.Linear(6, 6)
        self.head = nn.Linear(6, 13)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.layer(self.embedding(input_ids)).tanh())


def language(count: int = 5, length: int = 7) -> tuple[Language, Probe, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net, tokens = Language(), torch.randint(0, 13, (count, length))
    mask = torch.ones(count, length, dtype=torch.long)
    mask[0, 4:] = 0
    probe = Probe(train=({"input_ids": tokens, "attention_mask": mask}, tokens), unit="token")
    return net, probe, tokens, mask


def values(findings: Sequence[Any], part: str) -> dict[str, Reading]:
    return {each.metric: each for each in findings if isinstance(each, Reading) and each.part == part}


@pytest.mark.parametrize("prefix", [0, 2])
def test_cosines_are_those_of_every_pair(sounding_plugin: Trial, prefix: int):
    from sounding import Metric, accumulator, plugin
    from sounding.passes.angles import Angles, AnglesAccumulator
    from sounding.tap import Tap

    @accumulator(version=1, taps={"head": Tap.head()})
    def with_prefix() -> AnglesAccumulator:
        return AnglesAccumulator(prefix)

    @plugin(version=1, cost="data", metrics=[Metric(name, "1", name, "test") for name in ("intra", "inter", "across")])
    def looking(with_prefix: Angles) -> Any:
        """The head's angles."""
        (found,) = with_prefix.splits["train"].values()
        for name in ("intra", "inter"):
            for index, value in enumerate(getattr(found, name)):
                yield Reading(name, value, index=index)
        yield Reading("across", found.across)

    net, probe, tokens, mask = language()
    findings = sounding_plugin(looking, model=net, probe=probe, also=[with_prefix])
    with torch.no_grad():
        states = net.layer(net.embedding(tokens)).tanh().double()
    units = states / states.norm(dim=-1, keepdim=True)
    rows = [unit[kept != 0] for unit, kept in zip(units, mask, strict=True)]
    own = [row[prefix:] for row in rows]

    def seen(metric: str) -> list[float]:
        return [each.value for each in findings if isinstance(each, Reading) and each.metric == metric]  # type: ignore[misc]

    pairs = [[float(a @ b) for i, a in enumerate(row) for j, b in enumerate(row) if i != j] for row in own]
    assert seen("intra") == pytest.approx([np.mean(each) for each in pairs], rel=1e-5)
    inter = [float((row[:prefix] @ row[prefix:].T).mean()) for row in rows] if prefix else []
    assert seen("inter") == pytest.approx(inter, rel=1e-5)
    across = [float(a @ b) for i, x in enumerate(own) for j, y in enumerate(own) if i != j for a in x for b in y]
    assert seen("across") == pytest.approx([np.mean(across)], rel=1e-5)


def test_layers_and_errors(sounding_plugin: Trial):
    net, probe, _, _ = language()
    found = sounding_plugin(angle_concentration, model=net, probe=probe)
    layer = values(found, "layer")
    assert layer["sequences"].value == 5
    assert layer["intra"].stderr is not None
    assert 0.0 < layer["intra"].stderr < 1.0
    assert "inter" not in layer


def test_equal_states_concentrate_entirely(sounding_plugin: Trial):
    net, probe, _, _ = language()
    with torch.no_grad():
        net.embedding.weight.copy_(net.embedding.weight[:1].expand(13, 6))
    found = values(sounding_plugin(angle_concentration, model=net, probe=probe), "layer")
    assert (found["intra"].value, found["across"].value) == pytest.approx((1.0, 1.0), abs=1e-6)
    assert found["intra"].stderr == pytest.approx(0.0, abs=1e-7)


def test_random_directions_do_not_concentrate():
    from sounding.passes.angles import _Sums

    sums = _Sums(0)
    for seed in range(40):
        states = torch.randn(30, 64, generator=torch.Generator().manual_seed(seed))
        sums.take(states[None], torch.ones(1, 30, dtype=torch.bool))
    found = sums.result()
    assert abs(np.mean(found.intra)) < 4 * np.std(found.intra) / math.sqrt(40)
    assert found.across == pytest.approx(0.0, abs=1e-2)


def test_what_does_not_count_may_be_nan_and_zeros_have_no_direction():
    from sounding.passes.angles import _Sums

    states = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counted = torch.ones(3, 6, dtype=torch.bool)
    states[0, 3:], counted[0, 3:] = torch.nan, False
    states[1, 2] = 0.0
    sums = _Sums(1)
    sums.take(states, counted)
    rows = [states[0, :3], states[1, [0, 1, 3, 4, 5]], states[2]]
    rows = [row / row.norm(dim=1, keepdim=True) for row in rows]
    found = sums.result()
    cosines = [(row[1:] @ row[1:].T).fill_diagonal_(0.0).sum() / ((len(row) - 1) * (len(row) - 2)) for row in rows]
    assert found.intra == pytest.approx([float(each) for each in cosines])
    assert found.inter == pytest.approx([float((row[:1] @ row[1:].T).mean()) for row in rows])


def test_images_have_no_positions(sounding_plugin: Trial):
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    probe = Probe(train=(torch.randn(12, 4), torch.randint(0, 3, (12,))))
    assert sounding_plugin(angle_concentration, model=net, probe=probe) == []
    assert "no layer puts out a vector for each position" in sounding_plugin.reason
