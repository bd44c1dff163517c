"""The gradient of the mean loss, by hand for logistic regression."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.gradient_norm import gradient_norm


def parts(findings: Any, metric: str = "norm"):
    return {each.part: each.value for each in findings if isinstance(each, Reading) and each.metric == metric}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(70, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (70,), generator=generator)


def by_hand(model: Any, inputs: Any, targets: Any):
    """Logistic regression: mean of (softmax(z) - onehot) outer x."""
    residual = torch.softmax(model(inputs), 1) - nn.functional.one_hot(targets, 3)
    return (residual.T @ inputs / len(inputs)).detach(), residual.mean(0).detach()


def test_logistic_regression_by_hand(sounding_plugin: Trial, data: Any):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    weight, bias = by_hand(model, *data)
    other = (torch.randn(9, 4, dtype=torch.float64), torch.zeros(9, dtype=torch.int64))
    found = sounding_plugin(gradient_norm, model=model, probe=Probe(train=data, heldout=other))
    assert parts(found) == pytest.approx({"weight": float(weight.norm()), "bias": float(bias.norm())}, rel=1e-12)
    assert parts(found, "total")[""] == pytest.approx(math.hypot(weight.norm(), bias.norm()), rel=1e-12)


def test_at_the_minimum_it_vanishes(sounding_plugin: Trial, data: Any):
    inputs, targets = data
    targets = inputs @ torch.ones(4, 1, dtype=torch.float64) + 2.0
    model = nn.Linear(4, 1).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(2.0)

    def squared(outputs: Any, targets: Any, inputs: Any):
        return ((outputs - targets) ** 2).mean(1)

    found = sounding_plugin(
        gradient_norm, model=model, probe=Probe(train=(inputs, targets)), functions={"loss": squared}
    )
    assert parts(found, "total")[""] < 1e-14


def test_parameters_the_loss_does_not_reach_and_frozen_ones(sounding_plugin: Trial, data: Any):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(4, 3).double()
            self.unused = nn.Linear(4, 3).double()
            self.used.bias.requires_grad_(False)

        def forward(self, x: Any):
            return self.used(x)

    found = sounding_plugin(gradient_norm, model=Net(), probe=Probe(train=data))
    assert set(parts(found)) == {"used.weight"}
    assert {each.part for each in found if isinstance(each, Skip)} == {"unused.weight", "unused.bias"}


def test_token_weights_make_the_trainers_mean(sounding_plugin: Trial):
    torch.manual_seed(2)
    model = nn.Embedding(5, 5, dtype=torch.float64)
    inputs, targets = torch.randint(0, 5, (2, 20, 6))
    targets[:, 4:] = -100
    targets[3] = -100
    found = sounding_plugin(gradient_norm, model=model, probe=Probe(train=(inputs, targets), unit="token"))
    mean = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    twin = torch.autograd.grad(mean, model.weight)[0]
    assert parts(found)["weight"] == pytest.approx(float(twin.norm()), rel=1e-12)
