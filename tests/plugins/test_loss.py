"""Loss, accuracy and their errors against float64 numpy."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Reading
from sounding.recipe import Probe
from sounding.records import Checkpoint
from sounding.testing import Trial
from sounding_plugins.loss import loss


def by_split(findings: Any, metric: str):
    return {each.split: each for each in findings if isinstance(each, Reading) and each.metric == metric}


def cross_entropy(logits: Any, targets: Any):
    """Naive twin in numpy float64."""
    logits = logits.detach().double().numpy()
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(logp, targets.numpy()[..., None], -1)[..., 0]


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(90, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (90,), generator=generator)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(5, 3).double()


def test_mean_loss_accuracy_and_gap(sounding_plugin: Trial, data: Any, linear: tuple[Checkpoint, Path]):
    inputs, targets = data
    probe = Probe(train=(inputs[:60], targets[:60]), heldout=(inputs[60:], targets[60:]))
    found = sounding_plugin(loss, model=linear, probe=probe)
    twin = {"train": (slice(0, 60), 60), "heldout": (slice(60, 90), 30)}
    means, errors = {}, {}
    for name, (rows, count) in twin.items():
        each = cross_entropy(linear(inputs[rows]), targets[rows])
        means[name], errors[name] = each.mean(), each.std(ddof=1) / math.sqrt(count)
        assert by_split(found, "loss")[name].value == pytest.approx(means[name], rel=1e-12)
        assert by_split(found, "loss")[name].stderr == pytest.approx(errors[name], rel=1e-12)
        right = (linear(inputs[rows]).argmax(1) == targets[rows]).double().numpy()
        assert by_split(found, "accuracy")[name].value == pytest.approx(right.mean(), rel=1e-12)
        assert by_split(found, "accuracy")[name].stderr == pytest.approx(right.std(ddof=1) / math.sqrt(count))
    gap = by_split(found, "generalization_gap")[""]
    assert gap.value == pytest.approx(means["heldout"] - means["train"], rel=1e-10)
    assert gap.stderr == pytest.approx(math.hypot(*errors.values()), rel=1e-12)


def test_without_heldout_there_is_no_gap(sounding_plugin: Trial, data: Any, linear: tuple[Checkpoint, Path]):
    found = sounding_plugin(loss, model=linear, probe=Probe(train=data))
    assert set(by_split(found, "loss")) == {"train"}
    assert by_split(found, "generalization_gap") == {}


def test_a_single_example_has_no_standard_error(sounding_plugin: Trial, data: Any, linear: tuple[Checkpoint, Path]):
    found = sounding_plugin(loss, model=linear, probe=Probe(train=(data[0][:1], data[1][:1])))
    assert by_split(found, "loss")["train"].stderr is None


def test_regression_uses_the_recipes_loss_and_has_no_accuracy(sounding_plugin: Trial, data: Any):
    inputs, _ = data
    model = nn.Linear(5, 1).double()
    targets = torch.linspace(-1, 1, 90, dtype=torch.float64)

    def squared(outputs: Any, targets: Any, inputs: Any):
        return (outputs[:, 0] - targets) ** 2

    found = sounding_plugin(loss, model=model, probe=Probe(train=(inputs, targets)), functions={"loss": squared})
    twin = ((model(inputs)[:, 0] - targets) ** 2).mean().detach()
    assert by_split(found, "loss")["train"].value == pytest.approx(float(twin), rel=1e-12)
    assert by_split(found, "accuracy") == {}


class Tokens(nn.Module):
    """Logits of every position from its own token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 11, dtype=torch.float64)

    def forward(self, ids: Any):
        return self.embed(ids)


def test_token_means_weigh_tokens_not_sequences(sounding_plugin: Trial):
    torch.manual_seed(1)
    model = Tokens()
    inputs = torch.randint(0, 11, (6, 7))
    targets = torch.randint(0, 11, (6, 7))
    counted = torch.rand(6, 7) < 0.5
    counted[0] = False  # a sequence that weighs nothing
    targets[~counted] = -100
    found = sounding_plugin(loss, model=model, probe=Probe(train=(inputs, targets), unit="token"))
    each = cross_entropy(model(inputs), targets.clamp_min(0))[counted.numpy()]
    assert by_split(found, "loss")["train"].value == pytest.approx(each.mean(), rel=1e-12)
    right = (model(inputs).argmax(-1) == targets)[counted].double().mean()
    assert by_split(found, "accuracy")["train"].value == pytest.approx(float(right), rel=1e-12)
    # The error is that of a ratio of sums over sequences: tokens of one sequence are not independent.
    sums = [np.sum(cross_entropy(model(inputs), targets.clamp_min(0))[i] * counted[i].numpy()) for i in range(1, 6)]
    sizes = counted[1:].sum(1).numpy()
    residuals = np.array(sums) - each.mean() * sizes
    twin = math.sqrt(5 / 4 * np.sum(residuals**2)) / sizes.sum()
    assert by_split(found, "loss")["train"].stderr == pytest.approx(twin, rel=1e-12)
