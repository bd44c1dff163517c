"""Rotation against the balance: a weight at it, one far from it, and what cannot be said."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.passes import Group
from sounding.passes.equilibrium import adamw, angle_of, equilibrium_of
from sounding.testing import Trial
from sounding_plugins.rotational_equilibrium import rotational_equilibrium
from sounding_plugins.weight_change import weight_change

PLUGIN: Any = rotational_equilibrium
RATE, DECAY, BETA, BETWEEN = 0.02, 0.5, 0.9, 20


def readings(findings: Any) -> dict[tuple[str, Any], Reading]:
    found = [each for each in findings if isinstance(each, Reading)]
    return {(each.metric, each.part or each.index): each for each in found}


@pytest.fixture(scope="module")
def balanced() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two checkpoints 20 updates apart of a weight that noise has driven into the balance."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(100, 80))
    weight.data *= math.sqrt(8000 * adamw(RATE, DECAY, BETA).spread) / weight.data.norm()
    optimizer = torch.optim.AdamW([weight], lr=RATE, weight_decay=DECAY, betas=(BETA, 0.99))
    kept: list[dict[str, Any]] = []
    for step in range(1, 321):
        gradient = torch.randn(100, 80)
        w = weight.detach()
        weight.grad = gradient - w * (gradient * w).sum() / (w * w).sum()
        optimizer.step()
        if step in (320 - BETWEEN, 320):
            kept.append({"model": {"w": w.clone()}, "optimizer": optimizer.state_dict(), "global_step": step})
    return kept[0], kept[1]


def test_a_weight_in_the_balance(sounding_plugin: Trial, balanced: tuple[dict[str, Any], dict[str, Any]]):
    found = readings(sounding_plugin(PLUGIN, checkpoint=balanced[1], previous=balanced[0]))
    expected = angle_of(adamw(RATE, DECAY, BETA).cosine_loss(BETWEEN))
    assert found["expected_rotation", "w"].value == pytest.approx(expected)
    assert found["distance", "w"].value == pytest.approx(1.0, abs=0.05)
    assert found["distance", "w"].quality == "ok"
    assert found["kept", 0].value == pytest.approx((1 - RATE * DECAY) ** BETWEEN)
    growth = float(balanced[0]["model"]["w"].double().norm() / balanced[1]["model"]["w"].double().norm())
    assert found["growth_decay", "w"].value == pytest.approx(growth, rel=1e-5)


def test_the_angle_of_one_update_follows_the_exponential_law(
    sounding_plugin: Trial, balanced: tuple[dict[str, Any], dict[str, Any]]
):
    change: Any = weight_change
    found = readings(sounding_plugin(change, checkpoint=balanced[1], previous=balanced[0]))
    angle, single = (found[metric, "w"].value or 0.0 for metric in ("rotation", "rotation_per_update"))
    assert math.cos(single) ** BETWEEN == pytest.approx(math.cos(angle), rel=1e-9)
    assert single * math.sqrt(BETWEEN) != pytest.approx(angle, rel=1e-2)


def test_one_that_turns_too_slowly(sounding_plugin: Trial, balanced: tuple[dict[str, Any], dict[str, Any]]):
    heavy = [{**each, "model": {"w": each["model"]["w"].clone()}} for each in balanced]
    step = heavy[1]["model"]["w"] - heavy[0]["model"]["w"]
    heavy[1]["model"]["w"] = heavy[0]["model"]["w"] + 0.1 * step
    found = readings(sounding_plugin(PLUGIN, checkpoint=heavy[1], previous=heavy[0]))
    assert found["distance", "w"].value == pytest.approx(0.1, abs=0.02)


def test_what_rounding_hides_is_unresolved(sounding_plugin: Trial, balanced: tuple[dict[str, Any], dict[str, Any]]):
    coarse = [{**each, "model": {"w": balanced[0]["model"]["w"].bfloat16()}} for each in balanced]
    found = readings(sounding_plugin(PLUGIN, checkpoint=coarse[1], previous=coarse[0]))
    assert found["distance", "w"].quality == "unresolved"


def test_directions_without_memory_of_each_other_tell_nothing(
    sounding_plugin: Trial, balanced: tuple[dict[str, Any], dict[str, Any]]
):
    fresh = {**balanced[1], "model": {"w": torch.randn(100, 80)}}
    found = sounding_plugin(PLUGIN, checkpoint=fresh, previous=balanced[0])
    assert ("distance", "w") not in readings(found)
    assert "independent directions" in next(each.reason for each in found if isinstance(each, Skip))
    late = {**balanced[1], "global_step": 10_000}
    found = sounding_plugin(PLUGIN, checkpoint=late, previous=balanced[0])
    assert "forgets" in next(each.reason for each in found if isinstance(each, Skip))


def test_without_a_count_of_updates(sounding_plugin: Trial):
    tree = {"model": {"w": torch.ones(4)}, "optimizer": torch.optim.SGD([torch.ones(4)], lr=0.1).state_dict()}
    found: Any = sounding_plugin(PLUGIN, checkpoint=tree, previous=tree)
    assert [type(each) for each in found] == [Skip]
    assert "updates" in found[0].reason


def test_a_rate_that_changed_much_between_is_not_certain(
    sounding_plugin: Trial, balanced: tuple[dict[str, Any], dict[str, Any]]
):
    state = balanced[0]["optimizer"]
    before = {**balanced[0], "optimizer": {**state, "param_groups": [{**state["param_groups"][0], "lr": 2 * RATE}]}}
    found = readings(sounding_plugin(PLUGIN, checkpoint=balanced[1], previous=before))
    assert {each.quality for each in found.values()} == {"unresolved"}
    assert found["kept", 0].value == pytest.approx((1 - 1.5 * RATE * DECAY) ** BETWEEN)


def test_optimizers_without_a_formula_after_long(sounding_plugin: Trial):
    model = nn.Linear(30, 30, bias=False)
    adafactor = torch.optim.Adafactor(model.parameters(), lr=0.01, weight_decay=0.1)
    model(torch.ones(30)).sum().backward()
    adafactor.step()
    tree = {"model": model.state_dict(), "optimizer": adafactor.state_dict()}
    before = {**tree, "model": {"weight": tree["model"]["weight"] + 0.001 * torch.randn(30, 30)}, "global_step": 5}
    for step, told in ((15, False), (205, True)):
        found = readings(sounding_plugin(PLUGIN, checkpoint={**tree, "global_step": step}, previous=before))
        assert (("expected_rotation", "weight") in found) is told
    assert math.cos(found["expected_rotation", "weight"].value or 0.0) == pytest.approx(0.999**200)


def test_muon_in_its_balance(sounding_plugin: Trial):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(40, 60))
    optimizer = torch.optim.Muon([weight], lr=0.02, weight_decay=0.5, momentum=0.9)
    balance = equilibrium_of(Group({**optimizer.param_groups[0]}, (), "muon"), 0.02, (40, 60))
    assert balance is not None
    weight.data *= math.sqrt(2400 * balance.spread) / weight.data.norm()
    kept: list[dict[str, Any]] = []
    for step in range(1, 301):
        weight.grad = torch.randn(40, 60)
        optimizer.step()
        if step in (290, 300):
            kept.append(
                {"model": {"w": weight.detach().clone()}, "optimizer": optimizer.state_dict(), "global_step": step}
            )
    found = readings(sounding_plugin(PLUGIN, checkpoint=kept[1], previous=kept[0]))
    assert found["expected_rotation", "w"].value == pytest.approx(angle_of(balance.cosine_loss(10)))
    assert found["distance", "w"].value == pytest.approx(1.0, abs=0.05)
