"""The line from the first checkpoint; what is on it is tested with the one from the preceding."""

import pytest
import torch
from torch import nn

from sounding import Curve, Reading
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.interpolation_first import interpolation_first


def test_the_first_checkpoint_is_the_other_end(sounding_plugin: Trial):
    def at(weight: float) -> nn.Module:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, weight)
        return layer

    probe = Probe(train=(torch.ones(3, 1), torch.full((3,), -1.0)))
    found = sounding_plugin(
        interpolation_first,
        model=at(1.0),
        probe=probe,
        previous={"model": at(-2.0).state_dict()},
        functions={"loss": lambda outputs, targets, inputs: outputs[:, 0] ** 2 * targets},
    )
    curve = next(each for each in found if isinstance(each, Curve) and each.metric == "loss")
    assert (curve.y[0], curve.y[-1]) == pytest.approx((-4.0, -1.0), rel=1e-6)
    readings = {each.metric: each.value for each in found if isinstance(each, Reading)}
    assert readings["loss_barrier_line"] == pytest.approx(max(-((-2 + 0.3 * k) ** 2) + 4 - 0.3 * k for k in range(11)))
    assert interpolation_first.against == "first"
