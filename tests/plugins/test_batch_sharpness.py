"""Curvature along mini-batch gradients, against closed forms of the same batches."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.curvature.selection import subset_of
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.batch_sharpness import batch_sharpness

EXAMPLES = 48
SQUARED = {"loss": lambda outputs, targets, inputs: (outputs[:, 0] - targets) ** 2}


def linear() -> tuple[nn.Linear, Probe]:
    torch.manual_seed(0)
    return nn.Linear(5, 1, bias=False), Probe(train=(torch.randn(EXAMPLES, 5), torch.randn(EXAMPLES)))


def readings(findings: Sequence[Any]) -> dict[str, Reading]:
    return {each.metric: each for each in findings if isinstance(each, Reading)}


def saved(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    for tensor in net.parameters():
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    return {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}


def test_it_is_the_mean_over_batches_of_a_closed_form(sounding_plugin: Trial):
    net, probe = linear()
    checkpoint = saved(net, torch.optim.SGD(net.parameters(), lr=0.1))
    found = readings(
        sounding_plugin(
            batch_sharpness, model=net, checkpoint=checkpoint, probe=probe, functions=SQUARED,
            attributes={"batch_size": 10}, draws=3,
        )
    )  # fmt: skip
    order = subset_of(probe, "train", EXAMPLES).positions
    inputs, targets = (each[list(order)].double().numpy() for each in probe.train)
    w = net.weight.detach().double().numpy()[0]
    curved, steep = [], []
    for start in (0, 10, 20):
        x, y = inputs[start : start + 10], targets[start : start + 10]
        g, h = 2 * x.T @ (x @ w - y) / 10, 2 * x.T @ x / 10
        curved.append(g @ h @ g)
        steep.append(g @ g)
    each = np.array(curved) / np.array(steep)
    mean = found["batch_sharpness"]
    assert mean.value == pytest.approx(each.mean(), rel=1e-5)
    assert mean.stderr == pytest.approx(each.std(ddof=1) / math.sqrt(3), rel=1e-4)
    assert found["batch_sharpness_ratio"].value == pytest.approx(sum(curved) / sum(steep), rel=1e-5)
    assert (found["batch_size"].value, found["batches"].value) == (10, 3)
    assert found["stability_ratio"].value == pytest.approx(each.mean() * 0.1 / 2, rel=1e-5)


def test_batch_norm_normalises_by_the_batch(sounding_plugin: Trial):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3), nn.Linear(3, 2))
    probe = Probe(train=(torch.randn(12, 4), torch.randint(0, 2, (12,))))
    found = readings(sounding_plugin(batch_sharpness, model=net, probe=probe, attributes={"batch_size": 12}))
    order = list(subset_of(probe, "train", 12).positions)
    inputs, targets = probe.train[0][order].double(), probe.train[1][order]
    names = [name for name, _ in net.named_parameters()]
    twin = net.double().train()

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(twin, dict(zip(names, tensors, strict=True)), (inputs,))
        return nn.functional.cross_entropy(outputs, targets)

    tensors = tuple(each.detach().requires_grad_() for each in net.parameters())
    slopes = torch.autograd.grad(loss(*tensors), tensors)
    product = torch.autograd.functional.hvp(loss, tensors, slopes)[1]
    steep = sum(float((slope**2).sum()) for slope in slopes)
    curved = sum(float((slope * bent).sum()) for slope, bent in zip(slopes, product, strict=True))
    assert found["batch_sharpness"].value == pytest.approx(curved / steep, rel=1e-4)


def test_what_is_not_known_is_asked_for(sounding_plugin: Trial):
    net, probe = linear()
    findings = sounding_plugin(batch_sharpness, model=net, probe=probe, functions=SQUARED)
    assert [type(each) for each in findings] == [Skip]
    assert "batch_size" in findings[0].reason  # type: ignore[union-attr]
    checkpoint = saved(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    given: dict[str, Any] = {"probe": probe, "functions": SQUARED, "attributes": {"batch_size": 8}}
    for tree in (checkpoint, {"model": net.state_dict()}):
        findings = sounding_plugin(batch_sharpness, model=net, checkpoint=tree, **given)
        assert "stability_ratio" not in readings(findings)
        assert any(isinstance(each, Skip) and each.reason.startswith("stability_ratio: ") for each in findings)


def test_no_gradient_no_direction(sounding_plugin: Trial):
    net, probe = linear()
    flat = {"loss": lambda outputs, targets, inputs: outputs[:, 0] * 0.0}
    findings = sounding_plugin(batch_sharpness, model=net, probe=probe, functions=flat, attributes={"batch_size": 8})
    assert [type(each) for each in findings] == [Skip]


class Distances(nn.Linear):
    """Its derivative has none of its own in torch."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(input, self.weight)


def test_what_has_no_curvature_says_why(sounding_plugin: Trial):
    net, probe = linear()
    given: dict[str, Any] = {"probe": probe, "functions": SQUARED, "attributes": {"batch_size": 8}}
    assert not sounding_plugin(batch_sharpness, model=Distances(5, 1), **given)
    assert "cannot be differentiated twice" in sounding_plugin.reason
    inputs = torch.randn(EXAMPLES, 5)
    inputs[subset_of(probe, "train", EXAMPLES).positions[-1]] *= 1e25
    given["probe"] = Probe(train=(inputs, torch.zeros(EXAMPLES)))
    findings = sounding_plugin(batch_sharpness, model=net, **given)
    assert [type(each) for each in findings] == [Skip]
    assert "NaN or infinite" in findings[0].reason  # type: ignore[union-attr]
