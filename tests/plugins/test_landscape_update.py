"""The line of the last change, on a parabola."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Curve, Reading, Skip
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.landscape_update import landscape_update

PROBE = Probe(train=(torch.ones(3, 1), torch.zeros(3)), heldout=(torch.ones(2, 1), torch.full((2,), 2.0)))
SQUARED = {"loss": lambda outputs, targets, inputs: (outputs[:, 0] - targets) ** 2}


def at(weight: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, weight)
    return layer


def along(trial: Trial, here: float, there: float, **options: Any) -> Sequence[Any]:
    previous = {"model": at(there).state_dict()}
    return trial(landscape_update, model=at(here), probe=PROBE, functions=SQUARED, previous=previous, **options)


def test_the_line_goes_on_beyond_the_checkpoint(sounding_plugin: Trial):
    found = along(sounding_plugin, 1.0, 3.0, points=5)
    curve = next(each for each in found if isinstance(each, Curve) and each.split == "train")
    assert curve.x == pytest.approx((-1.0, -0.5, 0.0, 0.5, 1.0))
    assert curve.y == pytest.approx([(1.0 - 2.0 * s) ** 2 for s in curve.x], abs=1e-6)
    best = {each.split: each.value for each in found if isinstance(each, Reading)}
    assert best == pytest.approx({"train": 0.5, "heldout": -0.5})


def test_without_a_change_there_is_no_direction(sounding_plugin: Trial):
    assert [type(each) for each in along(sounding_plugin, 1.0, 1.0)] == [Skip]
