"""Distances between kernels of two checkpoints: known ones, and none where nothing changed."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Reading
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.kernel_change import kernel_change

INPUTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
PROBE = Probe(train=(INPUTS, torch.zeros(16, dtype=torch.long)))


def measured(trial: Trial, before: nn.Module, after: nn.Module, updates: int | None = None) -> dict[str, Any]:
    def saved(model: nn.Module, at: int) -> dict[str, Any]:
        return {"model": model.state_dict(), **({} if updates is None else {"iter_num": at})}

    found = trial(kernel_change, model=after, probe=PROBE, checkpoint=saved(after, 10 + (updates or 0)),
                  previous=saved(before, 10))  # fmt: skip
    return {each.metric: each.value for each in found if isinstance(each, Reading)}


def deep(first: float, second: float) -> Any:
    """f(x) = second·first·x_0, whose kernel is (first² + second²)·x_0·x_0' and whose gradients never turn."""
    model: Any = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[first, 0.0, 0.0]]))
        model[1].weight.fill_(second)
    return model


def test_an_unchanged_network_has_an_unchanged_kernel(sounding_plugin: Trial):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    found = measured(sounding_plugin, model, copy.deepcopy(model), updates=5)
    assert found == {"kernel_distance": 0.0, "centred_kernel_distance": 0.0, "kernel_velocity": 0.0}


def test_a_linear_models_kernel_never_changes(sounding_plugin: Trial):
    assert measured(sounding_plugin, nn.Linear(3, 4), nn.Linear(3, 4)) == {
        "kernel_distance": 0.0,
        "centred_kernel_distance": 0.0,
    }


def test_a_kernel_of_two_parts_turns_by_a_known_angle(sounding_plugin: Trial):
    # The first weight's part is second²·(x·x'), the second's first²·x_0·x_0'.
    one, two = deep(2.0, 1.0), deep(2.0, 3.0)
    whole = (INPUTS @ INPUTS.T).double().numpy()
    part = torch.outer(INPUTS[:, 0], INPUTS[:, 0]).double().numpy()
    before, after = whole + 4 * part, 9 * whole + 4 * part
    cosine = float((before * after).sum() / np.linalg.norm(before) / np.linalg.norm(after))
    found = measured(sounding_plugin, one, two, updates=4)
    assert found["kernel_distance"] == pytest.approx(1 - cosine, rel=1e-5)
    assert found["kernel_velocity"] == pytest.approx((1 - cosine) / 4, rel=1e-5)
    assert found["centred_kernel_distance"] != pytest.approx(1 - cosine, rel=1e-3)
