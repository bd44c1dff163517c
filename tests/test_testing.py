"""What plugin authors are told when their plugin leaves traces or cannot be repeated."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import vmap

from sounding import Metric, Reading, SoundingError, plugin, shared_pass
from sounding.passes import Gradients, Model, Predictions, Weights
from sounding.recipe import Probe
from sounding.testing import Trial

M = [Metric("m", unit="1", meaning="m", source="s")]
COUNT = itertools.count()
KEPT: list[torch.Tensor] = []
STATE = {"model": {"w": torch.ones(3)}}


def simple(function: Callable[..., Any]) -> Any:
    return plugin(version=1, metrics=M)(function)


def counting(weights: Weights):
    yield Reading("m", next(COUNT))


def growing(weights: Weights):
    for index in range(next(COUNT)):
        yield Reading("m", 1.0, index=index)


def entropic(weights: Weights):
    yield Reading("m", np.random.default_rng().random())


def in_place(weights: Weights):
    yield Reading("m", float(weights["w"].mul_(2).sum()))


def behind_the_back(weights: Weights):
    weights["w"].numpy()[0] = 5
    yield Reading("m", 1.0)


def keeping(weights: Weights):
    KEPT.append(weights["w"])
    yield Reading("m", 1.0)


def failing(weights: Weights):
    raise ValueError("no luck")
    yield


def misspelt(wieghts: Weights):
    yield Reading("m", 1.0)


def undeclared(weights: Weights):
    yield Reading("n", 1.0)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (counting, "in a first run and .* in a second: seed what it draws"),
        (growing, "things in a first run"),
        (entropic, "seed what it draws"),
        (in_place, "wrote to the weights in place"),
        (behind_the_back, "wrote to the weights, the model or another pass's tensors"),
        (keeping, r"still in use \(w\)"),
        (failing, "failing raised ValueError: no luck .*test_testing.py"),
        (misspelt, "no pass; did you mean `weights`"),
        (undeclared, "yielded the metric `n`"),
    ],
)
def test_what_fails_an_authors_test(sounding_plugin: Trial, function: Callable[..., Any], words: str):
    with pytest.raises(pytest.fail.Exception, match=words):
        sounding_plugin(simple(function), checkpoint=STATE)
    KEPT.clear()


def train_mode(model: Model):
    model.module.train()
    yield Reading("m", 1.0)


def test_modes_left_behind(sounding_plugin: Trial):
    with pytest.raises(pytest.fail.Exception, match="another mode"):
        sounding_plugin(simple(train_mode), model=nn.Linear(2, 2))


def test_seeded_chance_passes_and_options_are_given(sounding_plugin: Trial):
    @simple
    def draws(weights: Weights, *, times: int = 1):
        for index in range(times):
            yield Reading("m", float(torch.rand(())), index=index)

    assert len(sounding_plugin(draws, checkpoint=STATE, times=3)) == 3


def test_passes_of_ones_own_and_a_whole_recipe(sounding_plugin: Trial):
    @shared_pass(version=1)
    def doubled(predictions: Predictions) -> float:
        return 2 * predictions["train"].mean_loss().value

    @simple
    def uses(doubled: float):
        yield Reading("m", doubled)

    found = sounding_plugin(
        uses,
        model=nn.Linear(2, 2),
        probe=Probe(train=(torch.ones(4, 2), torch.zeros(4))),
        functions={"loss": lambda outputs, targets, inputs: torch.full((len(targets),), 1.5)},
        also=[doubled],
    )
    assert found == [Reading("m", 3.0)]


def test_what_a_plugin_costs_is_counted_in_examples(sounding_plugin: Trial):
    @simple
    def nothing(weights: Weights):
        yield Reading("m", 1.0)

    @simple
    def one_traversal(predictions: Predictions, gradients: Gradients):
        yield Reading("m", 1.0)

    @simple
    def more(model: Model, predictions: Predictions):
        x = torch.ones(3, 2)
        slopes = torch.autograd.grad(
            model.module(x).square().sum(), list(model.parameters().values()), create_graph=True
        )
        torch.autograd.grad(sum(each.sum() for each in slopes), list(model.parameters().values()))
        vmap(lambda row: model.module(row[None]).sum())(torch.ones(7, 2))
        yield Reading("m", 1.0)

    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    probe = Probe(train=(torch.ones(20, 2), torch.zeros(20).long()), heldout=(torch.ones(5, 2), torch.zeros(5).long()))
    costs = []
    for each in (nothing, one_traversal, more):
        sounding_plugin(each, model=network, probe=probe)
        costs.append((sounding_plugin.forwards, sounding_plugin.backwards))
    assert costs == [(0, 0), (25, 20), (25 + 3 + 7, 2 * 3)]


def test_networks_that_the_test_builds_itself_are_counted_too(sounding_plugin: Trial):
    @simple
    def traversed(predictions: Predictions):
        yield Reading("m", 1.0)

    def architecture(checkpoint: Any, run: Any):
        return nn.Linear(2, run.attributes["classes"])

    probe = Probe(train=(torch.ones(6, 2), torch.zeros(6).long()))
    checkpoint = {"model": nn.Linear(2, 4).state_dict()}
    functions = {"architecture": architecture}
    sounding_plugin(traversed, checkpoint=checkpoint, probe=probe, functions=functions, attributes={"classes": 4})
    assert (sounding_plugin.forwards, sounding_plugin.backwards) == (6, 0)


def test_what_is_missing_is_said(sounding_plugin: Trial):
    with pytest.raises(SoundingError, match="give `sounding_plugin` a `model` or a `checkpoint`"):
        sounding_plugin(simple(counting))
    pair = plugin(version=1, metrics=M, over="pair", against="previous")(counting)
    with pytest.raises(SoundingError, match="a `previous` one"):
        sounding_plugin(pair, checkpoint=STATE)


def test_other_peoples_pytest_does_not_import_torch():
    code = "import sys, sounding.testing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
