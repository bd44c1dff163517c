"""Scale-invariant weights along a run: which they are, their norm and turn as one vector, and what is not known."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Finding, Metric, Reading, plugin
from sounding.passes import Course, Line
from sounding.passes.invariant_path import InvariantPath
from sounding.testing import Trial

GIVEN: list[InvariantPath] = []


@plugin(version=1, metrics=[Metric("m", unit="1", meaning="m", source="s")], over="run")
def keeps(invariant_path: InvariantPath) -> Iterator[Finding]:
    """Keeps what it is given."""
    GIVEN.append(invariant_path)
    yield Reading("m", 1.0)


PLUGIN: Any = keeps


def network() -> Any:
    return nn.Sequential(
        nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, 2)
    )


def course(values: Any, steps: Any = (0, 10, 20), updates: Any = None) -> Course:
    updates = np.array(steps, dtype=np.float64) if updates is None else np.array(updates)
    return Course(np.array(steps), updates, np.array(values, dtype=np.float64))


HISTORY = {
    Line("weight_norm.frobenius", "0.weight"): course([3.0, 3.0, 6.0]),
    Line("weight_norm.rms", "0.weight"): course(np.array([3.0, 3.0, 6.0]) / math.sqrt(12)),
    Line("weight_norm.frobenius", "2.weight"): course([4.0, 4.0, 8.0]),
    Line("weight_norm.rms", "2.weight"): course(np.array([4.0, 4.0, 8.0]) / math.sqrt(20)),
    Line("weight_change.rotation", "0.weight"): course([0.5, 1e-6], (10, 20)),
    Line("weight_change.rotation", "2.weight"): course([0.1, 2e-6], (10, 20)),
    Line("effective_learning_rate.learning_rate", index=0): course([9.0, 9.0, 9.0]),
    Line("effective_learning_rate.learning_rate", index=1): course([0.1, 0.2, 0.4]),
    Line("effective_learning_rate.decay_rate", index=1): course([0.01, 0.01], (0, 20)),
}


def sgd(groups: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def saved(optimizer: Any = sgd, kept: bool = True, dtype: Any = torch.float32) -> dict[str, Any]:
    model = network().to(dtype)
    weights = [model[0].weight, model[2].weight]
    rest = [each for each in model.parameters() if all(each is not weight for weight in weights)]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": weights, "weight_decay": 0.5}]
    trained = optimizer(groups, lr=0.1)
    model(torch.randn(4, 3, dtype=dtype)).sum().backward()
    trained.step()
    return {"model": model.state_dict()} | ({"optimizer": trained.state_dict()} if kept else {})


def path(trial: Trial, history: Any = HISTORY, **given: Any) -> InvariantPath:
    GIVEN.clear()
    found = trial(PLUGIN, history=history, **({"checkpoints": [saved()]} | given))
    assert GIVEN, found
    return GIVEN[0]


def test_all_weights_as_one(sounding_plugin: Trial):
    found = path(sounding_plugin)
    assert found.parts == ("0.weight", "2.weight")
    assert found.norms.tolist() == [5.0, 5.0, 10.0]
    turns = [(9 * (1 - math.cos(0.5)) + 16 * (1 - math.cos(0.1))) / 25, (9 * 0.5e-12 + 16 * 2e-12) / 25]
    assert math.isnan(found.turns[0])
    assert found.turns[1:] == pytest.approx(turns, rel=1e-6)
    assert found.freedom == 12 + 20 - 4 - 5
    assert found.group is not None
    assert found.group.weight_decay == 0.5
    assert found.rates.tolist() == [0.1, 0.2, 0.4]
    assert found.elr == pytest.approx([0.1 / 25, 0.2 / 25, 0.4 / 100])
    assert np.isnan(found.decays).tolist() == [False, True, False]
    assert (found.counted, found.lost) == (True, 0)


def test_the_power_of_the_norm_is_the_optimizers(sounding_plugin: Trial):
    found = path(sounding_plugin, checkpoints=[saved(torch.optim.AdamW)])
    assert found.elr == pytest.approx([0.1 / 5, 0.2 / 5, 0.4 / 10])


def test_without_an_optimizer_only_norms_and_turns_are_known(sounding_plugin: Trial):
    found = path(sounding_plugin, checkpoints=[saved(kept=False, dtype=torch.bfloat16)])
    assert found.group is None
    assert np.isnan(found.rates).all()
    assert found.elr == pytest.approx([1 / 25, 1 / 25, 1 / 100])
    assert found.floor == pytest.approx((2**-7) ** 2 / (32 * math.log(2)))


def test_one_group_is_that_of_all_weights_even_where_it_keeps_no_state(sounding_plugin: Trial):
    model = network()
    weights = [each for name, each in model.named_parameters() if not name.startswith("4")]  # the head is frozen
    alone = torch.optim.SGD(weights, lr=0.1, weight_decay=0.5)
    tree = {"model": model.state_dict(), "optimizer": alone.state_dict()}
    history = HISTORY | {Line("effective_learning_rate.learning_rate", index=0): course([0.1, 0.1, 0.1])}
    found = path(sounding_plugin, history, checkpoints=[tree])
    assert found.group is not None
    assert found.rates.tolist() == [0.1, 0.1, 0.1]


def test_the_newest_checkpoint_is_asked(sounding_plugin: Trial):
    other = {"model": nn.Linear(2, 2).state_dict()}
    assert path(sounding_plugin, checkpoints=[other, saved()]).parts == ("0.weight", "2.weight")


def test_what_was_measured_counts_where_names_prove_nothing(sounding_plugin: Trial):
    history = HISTORY | {Line("symmetry.slices", "2.weight"): course([1.0, 1.0, 1.0])}
    other = {"model": {name: each for name, each in network().state_dict().items() if "running" not in name}}
    assert path(sounding_plugin, history, checkpoints=[other]).parts == ("2.weight",)
    assert path(sounding_plugin, history, checkpoints=[]).freedom == 19


def test_steps_stand_in_for_updates_and_lost_weights_are_left_out(sounding_plugin: Trial):
    unknown = course([3.0, np.inf, 6.0], updates=[np.nan, 10.0, 20.0])
    found = path(sounding_plugin, HISTORY | {Line("weight_norm.frobenius", "0.weight"): unknown})
    assert (found.counted, found.lost) == (False, 1)
    assert found.times.tolist() == [0.0, 20.0]
    assert found.between(1, 2).norms.tolist() == [10.0]


@pytest.mark.parametrize(
    ("history", "checkpoints", "reason"),
    [(HISTORY, [], "no scale-invariant weights are known"), ({}, [saved()], "the plugin `weight_norm`")],
)
def test_where_there_is_no_path(sounding_plugin: Trial, history: Any, checkpoints: Any, reason: str):
    assert sounding_plugin(PLUGIN, history=history, checkpoints=checkpoints) == []
    assert reason in sounding_plugin.reason
