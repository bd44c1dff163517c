"""Gradients of single examples, taken one after the other, and what follows from them by definition."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from sounding import Curve, Metric, Reading, Run, Skip, Unavailable, plugin
from sounding.passes import LossGradients, Model
from sounding.passes.loss_gradients import loss_gradients
from sounding.probe import Probe
from sounding.recipe import Recipe
from sounding.testing import Trial
from sounding_plugins.gradient_agreement import gradient_agreement, noise_of, pair_mean

COUNT = 24


def mlp() -> tuple[nn.Module, Probe]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    return net, Probe(train=(torch.randn(COUNT, 5), torch.randint(0, 3, (COUNT,))))


class Convolutional(nn.Module):
    """Convolution, norm and a head whose weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.conv(images)).relu().mean((2, 3))
        return self.head(self.twice(self.twice(hidden).relu()))


def convolutional() -> tuple[nn.Module, Probe]:
    torch.manual_seed(1)
    return Convolutional().eval(), Probe(train=(torch.randn(COUNT, 1, 6, 6), torch.randint(0, 3, (COUNT,))))


def token_network() -> tuple[nn.Module, Probe]:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11))
    tokens = torch.randint(0, 11, (COUNT, 5))
    targets = torch.roll(tokens, -1, 1)
    targets[:, -1] = -100
    return net, Probe(train=(tokens, targets), unit="token")


def one_by_one(net: nn.Module, probe: Probe) -> dict[str, torch.Tensor]:
    """Gradients of each example's mean loss, [n, elements], in float64."""
    net = net.double()
    rows: dict[str, list[torch.Tensor]] = {name: [] for name, _ in net.named_parameters()}
    inputs, targets = probe.train
    for place in range(COUNT):
        given = inputs[place : place + 1]
        outputs = net(given.double() if given.is_floating_point() else given)
        loss = nn.functional.cross_entropy(outputs.flatten(0, -2), targets[place : place + 1].flatten())
        for name, slope in zip(rows, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            rows[name].append(slope.reshape(-1))
    net.float()
    return {name: torch.stack(each) for name, each in rows.items()}


@plugin(
    version=1, metrics=[Metric("seen", "1", "products", "test", kind="curve"), Metric("signs", "1", "signs", "test")]
)
def looking(loss_gradients: LossGradients) -> Any:
    """Every product, and which gradients were never formed."""
    for name, products in loss_gradients.products.items():
        kind = "pairs" if name in loss_gradients.by_pairs else "rows"
        yield Reading("signs", loss_gradients.signs[name], part=name)
        places = tuple(float(place) for place in range(products.size))
        yield Curve("seen", places, tuple(products.reshape(-1).tolist()), part=name, kind=kind)


@pytest.mark.parametrize(
    ("made", "by_pairs"),
    [(mlp, {"0.weight", "0.bias", "2.weight", "2.bias"}), (convolutional, {"head.weight", "head.bias"}),
     (token_network, set())],
)  # fmt: skip
def test_products_and_signs_are_those_of_gradients_taken_one_by_one(
    sounding_plugin: Trial, made: Any, by_pairs: set[str]
):
    net, probe = made()
    found = sounding_plugin(looking, model=net, probe=probe)
    curves = {each.part: each for each in found if isinstance(each, Curve)}
    for name, rows in one_by_one(net, probe).items():
        seen = np.array(curves[name].y).reshape(COUNT, COUNT)
        exact = (rows @ rows.T).numpy()
        assert np.abs(seen - exact).max() <= 2e-5 * np.abs(exact).max(), name
        assert curves[name].kind == ("pairs" if name in by_pairs else "rows")
        signs = readings(found, name)["signs"].value
        rows = torch.where(rows.abs() < 1e-9 * rows.abs().max(), 0.0, rows)
        assert signs == pytest.approx(float(rows.sign().sum(0).abs().sum()), abs=2.0)


def readings(findings: Sequence[Any], part: str = "") -> dict[str, Reading]:
    return {each.metric: each for each in findings if isinstance(each, Reading) and each.part == part}


def test_everything_follows_from_the_gradients(sounding_plugin: Trial):
    net, probe = mlp()
    found = readings(sounding_plugin(gradient_agreement, model=net, probe=probe))
    rows = torch.cat(list(one_by_one(net, probe).values()), dim=1).numpy()
    norms = np.linalg.norm(rows, axis=1)
    assert found["example_norm_mean"].value == pytest.approx(norms.mean(), rel=1e-5)
    assert found["example_norm_median"].value == pytest.approx(np.median(norms), rel=1e-5)
    assert found["example_norm_max"].value == pytest.approx(norms.max(), rel=1e-5)
    pairs = [(i, j) for i in range(COUNT) for j in range(i)]
    cosines = np.array([rows[i] @ rows[j] / norms[i] / norms[j] for i, j in pairs])
    assert found["conflict"].value == pytest.approx(np.mean(cosines < 0))
    assert found["cosine_mean"].value == pytest.approx(cosines.mean(), abs=1e-6)
    signal = np.mean([rows[i] @ rows[j] for i, j in pairs])
    noise = np.trace(np.cov(rows.T))
    assert found["signal"].value == pytest.approx(signal, rel=1e-4)
    assert found["noise"].value == pytest.approx(noise, rel=1e-5)
    assert found["gradient_snr"].value == pytest.approx(signal / noise, rel=1e-4)
    assert found["gradsign_fraction"].value == pytest.approx(found["gradsign"].value / (rows.shape[1] * COUNT))


def rows_of_noise(seed: int, signal: float, count: int = 60, size: int = 40) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return np.asarray(signal / math.sqrt(size) + generator.normal(size=(count, size)))


def test_signal_and_noise_are_unbiased_and_their_errors_right():
    found = [noise_of(rows @ rows.T) for rows in (rows_of_noise(seed, 2.0) for seed in range(200))]
    for values, errors, truth in (
        ([each.signal for each in found], [each.signal_error for each in found], 4.0),
        ([each.noise for each in found], [each.noise_error for each in found], 40.0),
    ):
        spread = float(np.std(values))
        assert abs(np.mean(values) - truth) < 4 * spread / math.sqrt(len(values))
        assert np.mean(errors) == pytest.approx(spread, rel=0.2)
    ratios = [each.ratio for each in found]
    assert np.mean([each.ratio_error for each in found]) == pytest.approx(np.std(ratios), rel=0.35)


def test_without_a_signal_the_noise_scale_is_unresolved():
    from sounding_plugins.gradient_agreement import _noise

    rows = rows_of_noise(3, 0.0)
    found = list(_noise(noise_of(rows @ rows.T), "", 2.0))
    scale = [each for each in found if isinstance(each, Reading) and each.metric == "gradient_noise_scale"]
    assert all(each.quality == "unresolved" for each in scale)
    assert scale or any(isinstance(each, Skip) for each in found)


def test_the_error_of_a_mean_over_pairs():
    generator = np.random.default_rng(0)
    means = [pair_mean(np.add.outer(x, x) / 2) for x in generator.normal(size=(300, 30))]
    assert np.mean([error for _, error in means]) == pytest.approx(np.std([mean for mean, _ in means]), rel=0.15)


def test_equal_examples_agree_and_have_no_noise(sounding_plugin: Trial):
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    probe = Probe(train=(torch.ones(10, 4), torch.zeros(10, dtype=torch.long)))
    found = readings(sounding_plugin(gradient_agreement, model=net, probe=probe))
    assert found["conflict"].value == 0.0
    assert found["cosine_mean"].value == pytest.approx(1.0, abs=1e-6)
    assert found["gradsign_fraction"].value == 1.0
    assert found["gradient_noise_scale"].value == pytest.approx(0.0, abs=1e-6)


def test_too_few_examples_say_so(sounding_plugin: Trial):
    net, probe = mlp()
    few = Probe(train=(probe.train[0][:5], probe.train[1][:5]))
    assert sounding_plugin(gradient_agreement, model=net, probe=few) == []
    assert "the train split has 5 examples" in sounding_plugin.reason


@pytest.mark.parametrize(("channels", "taken"), [(200, COUNT), (2000, 13)])
def test_too_little_memory_takes_fewer_examples(channels: int, taken: int):
    found = in_a_megabyte(channels)
    assert found.examples == taken
    assert found.products["0.weight"].shape == (taken, taken)


def test_too_little_memory_for_eight_is_said():
    with pytest.raises(Unavailable, match="gradients of 8 examples take 1 MB, more than memory_mb"):
        in_a_megabyte(6000)


def in_a_megabyte(channels: int) -> LossGradients:
    """Of a convolution with ten parameters for each channel, whose gradients have to be formed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, channels, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    probe = Probe(train=(torch.randn(COUNT, 1, 4, 4), torch.randint(0, 3, (COUNT,))))
    recipe = Recipe("recipe.py", 1, {"probe": lambda run: probe})
    return loss_gradients(Model(net.eval(), recipe, torch.device("cpu")), recipe, Run("", "", {}), memory_mb=1)
