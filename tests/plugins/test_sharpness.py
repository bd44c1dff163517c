"""Sharpness of regressions known in closed form and of small networks whose Hessian is written out."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.curvature.selection import subset_of
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.sharpness import sharpness

TOP = 5


def values(findings: Any, kind: str = "hessian", part: str = "") -> dict[str, Reading]:
    return {
        each.metric: each
        for each in findings
        if isinstance(each, Reading) and each.kind == kind and each.part == part and each.index is None
    }


def listed(findings: Any, metric: str, kind: str) -> list[Reading]:
    found = [e for e in findings if isinstance(e, Reading) and e.metric == metric and e.kind == kind]
    return sorted(found, key=lambda each: each.index or 0)


def skips(findings: Any) -> str:
    return "; ".join(each.reason for each in findings if isinstance(each, Skip))


def squared(outputs: Any, targets: Any, inputs: Any):
    return ((outputs - targets) ** 2).mean(1)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(120, 6, generator=generator)
    return inputs, (inputs @ torch.randn(6, 4, generator=generator)).argmax(1)


@pytest.fixture
def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def hessian_of(model: nn.Module, data: Any) -> torch.Tensor:
    """The Hessian of the mean cross-entropy written out, in float64."""
    twin = {name: each.detach().double() for name, each in model.named_parameters()}
    shapes = [each.shape for each in twin.values()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        given = {name: part.view(shape) for name, part, shape in zip(twin, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(model.double(), given, (data[0].double(),))
        return nn.functional.cross_entropy(outputs, data[1])

    return torch.autograd.functional.hessian(loss, torch.cat([each.reshape(-1) for each in twin.values()]))


def test_linear_regression_in_closed_form(sounding_plugin: Trial):
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(50, 6, generator=generator), torch.randn(50, 2, generator=generator)
    model = nn.Linear(6, 2, bias=False)
    probe = Probe(train=(inputs, targets))
    found = sounding_plugin(sharpness, model=model, probe=probe, functions={"loss": squared})
    spectrum = torch.linalg.eigvalsh(inputs.double().T @ inputs.double() / 50).flip(0)  # 2/(nc)·XᵀX, once per output
    for kind in ("hessian", "ggn"):
        top = values(found, kind)
        assert top["lambda_max"].value == pytest.approx(float(spectrum[0]), rel=1e-4)
        for name, true in (("trace", 2 * spectrum.sum()), ("frobenius", (2 * spectrum.square().sum()).sqrt())):
            assert abs((top[name].value or 0.0) - float(true)) < 4 * (top[name].stderr or 0.0) + 1e-5 * abs(float(true))
        assert top["negative_curvature_ratio"].value == 0.0


def test_a_networks_whole_spectrum(sounding_plugin: Trial, network: nn.Module, images: Any):
    truth = torch.linalg.eigvalsh(hessian_of(network, images))
    found = sounding_plugin(
        sharpness, model=network.float(), probe=Probe(train=images), kinds=("hessian", "ggn", "residual")
    )
    top = listed(found, "eigenvalue", "hessian")
    assert [each.value for each in top] == pytest.approx(truth.flip(0)[:TOP].tolist(), rel=1e-3)
    for each in (*top, values(found)["lambda_min"]):
        assert each.low is not None
        assert each.high is not None
        assert float((truth - (each.value or 0.0)).abs().min()) <= each.high - (each.value or 0.0)
    whole = values(found)
    for name, true in (("trace", truth.sum()), ("frobenius", truth.square().sum().sqrt())):
        assert abs((whole[name].value or 0.0) - float(true)) <= 4 * (whole[name].stderr or 0.0) + 1e-5 * abs(
            float(true)
        )
    assert (whole["lambda_max"].value or 0.0) <= (
        (values(found, "ggn")["lambda_max"].value or 0.0)
        + (values(found, "residual")["lambda_max"].value or 0.0)
        + 1e-4
    )
    assert "trace" not in values(found, "residual")
    assert "cross-entropy" in (whole["conditions"].label or "")


def test_the_gradients_share_in_the_top_eigenvectors(sounding_plugin: Trial, network: nn.Module, images: Any):
    vectors = torch.linalg.eigh(hessian_of(network, images))[1].flip(1)[:, :TOP]
    network.float().zero_grad()
    nn.functional.cross_entropy(network(images[0]), images[1]).backward()
    gradient = torch.cat([each.grad.reshape(-1).double() for each in network.parameters() if each.grad is not None])
    cosines = (vectors.T @ gradient / gradient.norm()).abs()
    found = sounding_plugin(sharpness, model=network, probe=Probe(train=images))
    assert [each.value for each in listed(found, "gradient_cosine", "")] == pytest.approx(cosines.tolist(), abs=0.02)
    assert values(found, "")["gradient_alignment"].value == pytest.approx(float(cosines.square().sum()), abs=0.02)


def test_the_cheap_mode_and_blocks(sounding_plugin: Trial, network: nn.Module, images: Any):
    truth = hessian_of(network, images)
    found = sounding_plugin(
        sharpness, model=network.float(), probe=Probe(train=images), largest_only=True, blocks=(r"^0\.", r"^2\.")
    )
    assert {each.metric for each in found if isinstance(each, Reading)} == {"lambda_max", "conditions"}
    split = 6 * 8 + 8
    for part, block in (("", truth), (r"^0\.", truth[:split, :split]), (r"^2\.", truth[split:, split:])):
        assert values(found, part=part)["lambda_max"].value == pytest.approx(
            float(torch.linalg.eigvalsh(block)[-1]), rel=1e-3
        )


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


def test_a_diverged_network_says_so(sounding_plugin: Trial, network: nn.Module, images: Any):
    network.float()
    with torch.no_grad():
        network[0].weight[0, 0] = math.nan
    found = sounding_plugin(sharpness, model=network, probe=Probe(train=images))
    assert not [each for each in found if isinstance(each, Reading)]
    assert "NaN" in skips(found)


def test_one_parameter_and_a_constant_loss(sounding_plugin: Trial):
    inputs = torch.tensor([[1.0], [3.0]])
    model = nn.Linear(1, 1, bias=False)
    probe = Probe(train=(inputs, torch.zeros(2, 1)))
    one = values(sounding_plugin(sharpness, model=model, probe=probe, functions={"loss": squared}))
    assert one["lambda_max"].value == pytest.approx(10.0)  # 2·mean x²
    assert one["trace"].value == pytest.approx(10.0)

    def constant(outputs: Any, targets: Any, inputs: Any):
        return 0.0 * outputs.mean(1)

    still = sounding_plugin(sharpness, model=model, probe=probe, functions={"loss": constant})
    assert values(still)["lambda_max"].value == 0.0
    assert "no eigenvalue is positive" in skips(still)


class Saddle(nn.Module):
    """A loss of known curvatures, of which the last one is downwards."""

    def __init__(self, *curvatures: float) -> None:
        super().__init__()
        self.w, self.curvatures = nn.Parameter(torch.full((len(curvatures),), 0.1)), torch.tensor(curvatures)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 0.5 * (self.curvatures * self.w.square()).sum() + 0.0 * inputs[:, 0]


def test_what_lies_below_zero_is_no_gap_of_itself(sounding_plugin: Trial):
    given: dict[str, Any] = {
        "probe": Probe(train=(torch.ones(8, 1), torch.zeros(8))), "functions": {"loss": lambda out, y, x: out},
    }  # fmt: skip
    saddle = sounding_plugin(sharpness, model=Saddle(5.0, 4.9, -3.0), kinds=("hessian",), **given)
    assert values(saddle)["outlier_gap"].value == pytest.approx(4.9 / 3.0, rel=1e-3)
    assert "no clear gap" in skips(saddle)
    assert values(saddle)["conditions"].label.endswith("; float32; no weight decay")  # type: ignore[union-attr]
    clear = sounding_plugin(sharpness, model=Saddle(5.0, 4.0, -0.5), kinds=("hessian",), **given)
    assert (values(clear)["outliers"].value, values(clear)["outlier_gap"].value) == (2.0, pytest.approx(8.0, rel=1e-3))


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
