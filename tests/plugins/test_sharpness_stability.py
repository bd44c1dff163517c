"""How near training is to instability, by torch's own optimizers, and the curvature that training sees."""

import copy
from typing import Any

import pytest
import torch
from curvature.told import hessian_of, perceptron, six_features, skips, squared, values
from torch import nn

from sounding.curvature.selection import subset_of
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.sharpness import sharpness


@pytest.fixture
def images():
    return six_features()


@pytest.fixture
def network():
    return perceptron()


@pytest.mark.parametrize(
    ("make", "formula", "border"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "2/η", 20.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "(2+2β)/η", 38.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "(2+2β)/(η(1+2β))", 38.0 / 2.8),
        (lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5), "2/η", 20.0),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0), "(2+2β₁)/((1-β₁)η)", 3800.0),
    ],
)
def test_the_edge_of_stability(
    sounding_plugin: Trial, network: nn.Module, images: Any, make: Any, formula: str, border: float
):
    network.float()
    optimizer = make(list(network.parameters()))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[0]), images[1]).backward()
        optimizer.step()
    found = sounding_plugin(
        sharpness, model=network, probe=Probe(train=images), largest_only=True,
        checkpoint={"model": network.state_dict(), "optimizer": optimizer.state_dict()}, attributes={"batch_size": 16},
    )  # fmt: skip
    truth = hessian_of(network, images)
    if isinstance(optimizer, torch.optim.AdamW):
        roots = [optimizer.state[each] for each in network.parameters()]
        diagonal = torch.cat([
            ((each["exp_avg_sq"].double() / (1 - 0.999**3)).sqrt() + 1e-8).mul(1 - 0.9**3).rsqrt().reshape(-1)
            for each in roots
        ])  # fmt: skip
        truth = diagonal[:, None] * truth * diagonal
    felt = float(torch.linalg.eigvalsh(truth)[-1]) + optimizer.param_groups[0]["weight_decay"]
    edge = values(found, formula)
    assert edge["stability_threshold"].value == pytest.approx(border)
    assert edge["stability_ratio"].value == pytest.approx(felt / border, rel=1e-3)
    assert edge["stability_ratio"].group == "full-batch criterion"
    label = edge["criterion"].label or ""
    assert "training is stochastic, in batches of 16" in label
    assert ("preconditioned by adamw" in label) is isinstance(optimizer, torch.optim.AdamW)
    assert f"weight decay: coupled, {optimizer.param_groups[0]['weight_decay']:g}; " in label


def largest_after(weight: torch.Tensor, hessian: torch.Tensor, stored: dict[str, Any], lr: float) -> float:
    """Where torch's RMSprop, with this state and this rate, ends on the quadratic from a distance of about 1."""
    at = torch.ones_like(weight).requires_grad_()
    optimizer = torch.optim.RMSprop([at])
    optimizer.load_state_dict(copy.deepcopy(stored))
    optimizer.param_groups[0]["lr"] = lr
    for _ in range(400):
        at.grad = at.detach() @ hessian
        optimizer.step()
    return float(at.detach().abs().max())


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_ratio_of_one_is_where_rmsprop_begins_to_grow(sounding_plugin: Trial, momentum: float, centered: bool):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 4, generator=generator)
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.3, alpha=1.0, momentum=momentum, centered=centered)
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    state = optimizer.state[model.weight]
    state["square_avg"].copy_(torch.tensor([[0.2, 1.0, 3.0, 9.0]]))  # which stays, with alpha = 1
    if centered:
        state["grad_avg"].copy_(torch.tensor([[0.3, -0.2, 1.2, 2.0]]))
    found = sounding_plugin(
        sharpness, model=model, probe=Probe(train=(inputs, torch.zeros(40, 1))), largest_only=True,
        functions={"loss": squared}, checkpoint={"model": model.state_dict(), "optimizer": optimizer.state_dict()},
    )  # fmt: skip
    edge = values(found, "(2+2β)/η")
    assert edge["stability_threshold"].value == pytest.approx((2 + 2 * momentum) / 0.3)
    rate = 0.3 / (edge["stability_ratio"].value or 0.0)
    hessian = 2 * inputs.T @ inputs / 40
    assert largest_after(model.weight, hessian, optimizer.state_dict(), 0.98 * rate) < 0.1
    assert largest_after(model.weight, hessian, optimizer.state_dict(), 1.02 * rate) > 10.0


def test_batch_norm_in_training_mode_is_what_stability_rests_on(sounding_plugin: Trial, images: Any):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    probe = Probe(train=images)
    unknown = sounding_plugin(sharpness, model=model, probe=probe, largest_only=True, checkpoint=checkpoint)
    assert "stability_ratio: BatchNorm normalises by the training batch" in skips(unknown)
    known = sounding_plugin(
        sharpness, model=model, probe=probe, largest_only=True, checkpoint=checkpoint, attributes={"batch_size": 60}
    )
    edge = values(known, "2/η")
    assert "BatchNorm by batches of 60 of 120 examples" in (edge["criterion"].label or "")
    ratio = edge["stability_ratio"].value or 0.0
    assert ratio > 0.0
    assert ratio != pytest.approx((values(known)["lambda_max"].value or 0.0) * 0.05, rel=0.05)


def in_training(model: nn.Module, data: Any, batch: int) -> float:
    """The largest eigenvalue of the mean over batches, each normalised by itself, in the order of the readings."""
    order = subset_of(Probe(train=data), "train", len(data[0])).positions
    twin = copy.deepcopy(model).train()
    total = torch.stack([hessian_of(twin, (data[0][part], data[1][part])) for part in torch.tensor(order).split(batch)])
    return float(torch.linalg.eigvalsh(total.mean(0))[-1])


def test_the_largest_eigenvalue_as_training_sees_it(sounding_plugin: Trial, images: Any):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    given: dict[str, Any] = {"probe": Probe(train=images), "largest_only": True, "attributes": {"batch_size": 40}}
    both = sounding_plugin(sharpness, model=model, batch_norm=("eval", "train"), **given)
    train, evaluated = values(both, "hessian, bn=train"), values(both)
    assert train["lambda_max"].value == pytest.approx(in_training(model, images, 40), rel=1e-3)
    assert evaluated["lambda_max"].value == pytest.approx(
        float(torch.linalg.eigvalsh(hessian_of(copy.deepcopy(model).eval(), images))[-1]), rel=1e-3
    )
    assert "BatchNorm by batches of 40" in (train["conditions"].label or "")
    assert "BatchNorm by running statistics" in (evaluated["conditions"].label or "")
    alone = sounding_plugin(sharpness, model=model, batch_norm=("train",), **given)
    assert "lambda_max" not in values(alone)
    assert values(alone, "hessian, bn=train")["lambda_max"].value == train["lambda_max"].value
    large = sounding_plugin(
        sharpness, model=model, batch_norm=("train",), **{**given, "attributes": {"batch_size": 200}}
    )
    assert "hessian, bn=train: a batch has 200 examples, and the subset of the probe 120" in skips(large)
    plain = sounding_plugin(sharpness, model=nn.Linear(6, 4), batch_norm=("eval", "train"), **given)
    assert "hessian, bn=train: the network has no BatchNorm" in skips(plain)
    assert "lambda_max" in values(plain)
