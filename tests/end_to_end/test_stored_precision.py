"""A training saved in bfloat16 beside its twin in float32: what the format does not resolve is not told as a number."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading
from sounding.passes.pair import rounding
from sounding.testing import Trial
from sounding_plugins.rotational_equilibrium import rotational_equilibrium
from sounding_plugins.weight_change import weight_change

CHANGE: Any = weight_change
BALANCE: Any = rotational_equilibrium
FLOOR = math.sqrt(2) * rounding(torch.bfloat16)
BETWEEN = 20
ANGLES = {"rotation", "relative_change", "rotation_per_update"}


def trained(rate: float, dtype: torch.dtype = torch.float32) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two checkpoints of a network trained in `dtype`, as it is saved and as it would be in bfloat16."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64, bias=False), nn.LayerNorm(64), nn.Tanh(), nn.Linear(64, 4)).to(dtype)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.1)
    inputs, targets = torch.randn(256, 16, dtype=dtype), torch.randint(0, 4, (256,))
    saved: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for step in range(1, 2 * BETWEEN + 1):
        batch = torch.randint(0, 256, (16,))
        loss = nn.functional.cross_entropy(net(inputs[batch]).float(), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % BETWEEN == 0:
            for trees, stored in zip(saved, (dtype, torch.bfloat16), strict=True):
                model = {name: each.to(stored).clone() for name, each in net.state_dict().items()}
                trees.append({"model": model, "optimizer": optimizer.state_dict(), "global_step": step})
    return saved


def measured(trial: Trial, plugin: Any, trees: list[dict[str, Any]]) -> dict[tuple[str, str], Reading]:
    found = trial(plugin, checkpoint=trees[1], previous=trees[0])
    return {(each.metric, each.part): each for each in found if isinstance(each, Reading)}


MATRICES = ("0.weight", "3.weight")


def test_below_the_resolution_of_the_format_nothing_is_told_as_certain(sounding_plugin: Trial):
    exact, coarse = trained(rate=1e-6)
    one, other = (measured(sounding_plugin, CHANGE, trees) for trees in (exact, coarse))
    for part in (*MATRICES, ""):
        assert 0.0 < (one["rotation", part].value or 0.0) < FLOOR / 5
        assert {one[metric, part].quality for metric in ANGLES} == {"ok"}
        assert {other[metric, part].quality for metric in ANGLES if (metric, part) in other} == {"unresolved"}
    balance = measured(sounding_plugin, BALANCE, coarse)
    assert {balance["distance", part].quality for part in MATRICES} == {"unresolved"}
    assert {each.quality for (metric, _), each in balance.items() if metric == "expected_rotation"} == {"ok"}
    assert {each.quality for each in measured(sounding_plugin, BALANCE, exact).values()} == {"ok"}


def test_above_it_the_twins_agree_within_the_floor(sounding_plugin: Trial):
    exact, coarse = trained(rate=1e-3)
    one, other = (measured(sounding_plugin, CHANGE, trees) for trees in (exact, coarse))
    distances = [measured(sounding_plugin, BALANCE, trees) for trees in (exact, coarse)]
    for part in MATRICES:
        for metric in ("rotation", "relative_change"):
            found, expected = other[metric, part], one[metric, part]
            assert (found.quality, expected.quality) == ("ok", "ok")
            assert (expected.value or 0.0) > 4 * FLOOR
            assert found.value == pytest.approx(expected.value, abs=FLOOR)
        ratio = FLOOR / (one["rotation", part].value or math.nan)
        near, far = (each["distance", part] for each in distances)
        assert (near.quality, far.quality) == ("ok", "ok")
        assert far.value == pytest.approx(near.value, rel=ratio)


def test_weights_trained_in_bfloat16_stand_still_below_their_last_bit(sounding_plugin: Trial):
    """The updates are lost in the weights themselves: exactly nothing changed, and that is no measurement of zero."""
    kept, _ = trained(rate=1e-6, dtype=torch.bfloat16)
    found = measured(sounding_plugin, CHANGE, kept)
    assert found["rotation", "0.weight"].value == pytest.approx(0.0, abs=FLOOR)
    assert {found["rotation", part].quality for part in MATRICES} == {"unresolved"}
    moved, _ = trained(rate=1e-2, dtype=torch.bfloat16)
    found = measured(sounding_plugin, CHANGE, moved)
    assert {found["rotation", part].quality for part in MATRICES} == {"ok"}
