"""Effective learning rates and balances, against hand-made checkpoints and an optimizer at work."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.passes import Group, rates_of
from sounding.passes.equilibrium import adamw, sgd
from sounding.records import Fact, Progress
from sounding.testing import Trial
from sounding_plugins.effective_learning_rate import effective_learning_rate

PLUGIN: Any = effective_learning_rate


def readings(findings: Any) -> dict[tuple[str, Any], Reading]:
    found = [each for each in findings if isinstance(each, Reading)]
    return {(each.metric, each.part or each.index): each for each in found}


def saved(model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 3))


def stepped(model: Any, optimizer: Any) -> Any:
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
    return optimizer


def norm(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().norm())


def test_sgd(sounding_plugin: Trial):
    model = network()
    optimizer = stepped(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3))
    found = readings(sounding_plugin(PLUGIN, checkpoint=saved(model, optimizer)))
    weight = model[0].weight
    assert found["elr", "0.weight"].value == pytest.approx(0.1 / norm(weight) ** 2)
    assert found["elr", "0.weight"].kind == "structure"
    assert found["elr", "2.weight"].kind == ""
    total = found["elr", None]
    assert (total.value, total.kind) == (pytest.approx(0.1 / norm(weight) ** 2), "structure")
    balance = sgd(0.1, 1e-3, 0.9)
    assert found["decay_rate", 0].value == pytest.approx(1e-3, rel=0.02)  # ηλ/(1-μ), ten times ηλ
    assert found["relaxation", 0].value == pytest.approx(500, rel=0.02)
    assert found["equilibrium_rotation", "0.weight"].value == pytest.approx(math.sqrt(2e-4 / 1.9), rel=1e-3)
    buffer = optimizer.state[weight]["momentum_buffer"].double()
    unit = weight.detach().double() / norm(weight)
    sideways = norm(buffer - unit * (buffer * unit).sum()) ** 2
    radius = (balance.spread * sideways * (1 - 0.81) * norm(weight) ** 2) ** 0.25
    assert found["equilibrium_norm", "0.weight"].value == pytest.approx(radius, rel=1e-5)
    assert found["norm_ratio", "0.weight"].value == pytest.approx(norm(weight) / radius, rel=1e-5)
    assert {each.quality for each in found.values()} == {"ok"}


def test_adamw_with_groups(sounding_plugin: Trial):
    model = network()
    groups = [
        {"params": [model[0].weight, model[2].weight], "weight_decay": 0.5},
        {"params": [*model[1].parameters(), model[2].bias], "weight_decay": 0.0},
    ]
    found = readings(
        sounding_plugin(PLUGIN, checkpoint=saved(model, stepped(model, torch.optim.AdamW(groups, lr=0.01))))
    )
    weight = model[0].weight
    assert found["elr_adam", "0.weight"].value == pytest.approx(0.01 * math.sqrt(24) / norm(weight))
    assert found["equilibrium_norm", "0.weight"].value == pytest.approx(math.sqrt(24 * adamw(0.01, 0.5, 0.9).spread))
    assert found["equilibrium_rotation", "0.weight"].value == pytest.approx(math.sqrt(2 * 0.005 * 0.1 / 1.9), rel=0.03)
    assert (found["decay_rate", 0].value, found["decay_rate", 1].value) == (pytest.approx(0.005), 0.0)
    assert ("relaxation", 1) not in found
    assert ("equilibrium_norm", "1.bias") not in found
    assert found["elr_adam", None].kind == "structure"


def test_a_simulated_balance_reads_as_one(sounding_plugin: Trial):
    """AdamW driven by noise at right angles to the weight, until its norm is that of the balance."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(50, 40))
    optimizer = torch.optim.AdamW([weight], lr=0.02, weight_decay=0.5, betas=(0.9, 0.99))
    for _ in range(400):
        gradient = torch.randn(50, 40)
        w = weight.detach()
        weight.grad = gradient - w * (gradient * w).sum() / (w * w).sum()
        optimizer.step()
    checkpoint = {"model": {"w": weight.detach()}, "optimizer": optimizer.state_dict()}
    found = readings(sounding_plugin(PLUGIN, checkpoint=checkpoint))
    assert found["norm_ratio", "w"].value == pytest.approx(1.0, abs=0.05)


def test_a_muon_has_a_form_of_its_own_and_adam_no_rate_of_decay(sounding_plugin: Trial):
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    muon = torch.optim.Muon(model.parameters(), lr=0.01, weight_decay=0.1)
    found = readings(sounding_plugin(PLUGIN, checkpoint=saved(model, stepped(model, muon))))
    assert found["elr_fixed", "0.weight"].value == pytest.approx(0.01 / norm(model[0].weight))
    assert found["decay_rate", 0].value == pytest.approx(0.001)
    adam = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    findings = sounding_plugin(PLUGIN, checkpoint=saved(model, stepped(model, adam)))
    assert ("decay_rate", 0) not in readings(findings)
    assert "weight decay of adam" in next(each.reason for each in findings if isinstance(each, Skip))


def test_the_end_of_a_schedule_has_no_rate(sounding_plugin: Trial):
    model = network()
    optimizer = stepped(model, torch.optim.SGD(model.parameters(), lr=0.0))
    findings = sounding_plugin(PLUGIN, checkpoint=saved(model, optimizer))
    assert readings(findings) == {}
    assert "it is zero" in " ".join(each.reason for each in findings if isinstance(each, Skip))


def test_a_scheduled_rate_is_not_certain(sounding_plugin: Trial):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    stepped(model, optimizer)
    scheduler.step()
    found = readings(sounding_plugin(PLUGIN, checkpoint=saved(model, optimizer)))
    assert {each.quality for each in found.values()} == {"unresolved"}
    assert "next" in str(found["learning_rate", 0].label)


def test_a_log_speaks_for_all_groups_in_proportion():
    groups = [Group({"lr": 0.2, "initial_lr": 1.0}, ()), Group({"lr": 0.1, "initial_lr": 0.5}, ())]
    logged = Progress(lr_last=Fact(0.4, "log"))
    assert rates_of(groups, logged) == rates_of(groups, logged).__class__((0.4, 0.2), "log", True)
    ended = [Group({**each.settings, "lr": 0.0}, ()) for each in groups]
    assert rates_of(ended, logged).values == (0.4, 0.2)
    assert not rates_of(groups, Progress()).certain
    assert rates_of([Group({"lr": 0.2}, ())], Progress()).certain
