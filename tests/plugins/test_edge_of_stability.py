"""Gradient descent ends at the edge of stability: a short run, and what the long ones left in benchmarks/results."""

import json
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from sounding import Reading
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.sharpness import sharpness

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "edge_of_stability.json"


def squared(outputs: Any, targets: Any, inputs: Any):
    return 0.5 * (outputs - nn.functional.one_hot(targets, 10)).square().sum(1)


def descended(rate: float, steps: int, width: int, data: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        squared(model(data[0]), data[1], data[0]).mean().backward()
        optimizer.step()
    return model, optimizer


def test_a_short_run_settles_at_the_border(sounding_plugin: Trial):
    digits = load_digits()
    data = torch.tensor(digits.data[:200], dtype=torch.float32) / 8 - 1, torch.tensor(digits.target[:200])
    found: dict[int, float] = {}
    for steps in (0, 200):
        model, optimizer = descended(0.2, steps, 16, data)
        readings = sounding_plugin(
            sharpness, model=model, probe=Probe(train=data), functions={"loss": squared}, largest_only=True,
            checkpoint={"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        )  # fmt: skip
        found[steps] = next(
            each.value or 0.0
            for each in readings
            if isinstance(each, Reading) and each.metric == "stability_ratio" and each.quality == "ok"
        )
    assert found[0] > 1.5  # it begins beyond the border, and what grows throws it back
    assert 0.9 < found[200] < 1.2


def test_the_long_runs_reached_it():
    runs = json.loads(RESULTS.read_text())["runs"]
    ratios = {float(rate): [each * float(rate) / 2 for each in run["lambda_max"]] for rate, run in runs.items()}
    for rate in (0.1, 0.2):
        settled = ratios[rate][2 * len(ratios[rate]) // 3 :]
        assert max(settled) > 1.0
        assert all(0.85 < each < 1.25 for each in settled)
    assert ratios[0.05][-1] > 1.5 * ratios[0.05][0]  # still on its way
    assert max(ratios[0.05]) < 1.0
