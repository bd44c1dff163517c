"""Sharpness of regressions known in closed form and of small networks whose Hessian is written out."""

import math
from typing import Any

import pytest
import torch
from curvature.told import hessian_of, listed, perceptron, six_features, skips, squared, values
from torch import nn

from sounding import Reading
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.sharpness import sharpness

TOP = 5


@pytest.fixture
def images():
    return six_features()


@pytest.fixture
def network():
    return perceptron()


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
