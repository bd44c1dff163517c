"""Eigenvalues of mini-batch Hessians against dense ones, and the slope that was planted."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Curve, Reading, Run, Skip
from sounding.curvature.batches import inflation_of
from sounding.curvature.selection import subset_of
from sounding.passes.model import Model
from sounding.passes.surroundings import surroundings
from sounding.probe import Probe
from sounding.recipe import Recipe
from sounding.testing import Trial
from sounding_plugins.batch_hessian import batch_hessian

EXAMPLES = 64
SQUARED = {"loss": lambda outputs, targets, inputs: (outputs[:, 0] - targets) ** 2}


def by_group(findings: Sequence[Any], metric: str) -> dict[str, Reading]:
    return {each.group: each for each in findings if isinstance(each, Reading) and each.metric == metric}


def test_eigenvalues_are_those_of_each_batch(sounding_plugin: Trial):
    torch.manual_seed(0)
    net, inputs = nn.Linear(6, 1, bias=False), torch.randn(EXAMPLES, 6) * torch.arange(1.0, 7.0)
    probe = Probe(train=(inputs, torch.randn(EXAMPLES)))
    found = sounding_plugin(
        batch_hessian, model=net, probe=probe, functions=SQUARED, sizes=(8, 16, 64), draws=3, tolerance=1e-4,
        worst_misfit=1.0,
    )  # fmt: skip
    rows = inputs[list(subset_of(probe, "train", EXAMPLES).positions)].double().numpy()
    dense = {size: [np.linalg.eigvalsh(2 * x.T @ x / size)[-1] for x in _cut(rows, size)[:3]] for size in (8, 16, 64)}
    for size in (8, 16):
        reading = by_group(found, "lambda_max")[f"B={size}"]
        assert reading.value == pytest.approx(np.mean(dense[size]), rel=1e-3)
        assert reading.stderr == pytest.approx(np.std(dense[size], ddof=1) / math.sqrt(3), rel=2e-2)
    full = by_group(found, "lambda_max_full")[""].value
    assert full == pytest.approx(dense[64][0], rel=1e-3)
    assert [each.reason for each in found if isinstance(each, Skip)] == [
        "batches of 64: the subset has 64 examples, and two batches are needed"
    ]
    slope = by_group(found, "inflation")[""].value
    curve = next(each for each in found if isinstance(each, Curve) and each.metric == "max_learning_rate_sgd")
    assert curve.x == (8.0, 16.0, 32.0, 64.0)
    assert curve.y[-1] == pytest.approx(2 / full)  # type: ignore[operator]
    assert curve.y[0] == pytest.approx(2 / (full + slope * (1 / 8 - 1 / 64)))  # type: ignore[operator]
    roots = next(each for each in found if isinstance(each, Curve) and each.metric == "relative_learning_rate_adam")
    assert roots.y == pytest.approx([math.sqrt(rate / curve.y[0]) for rate in curve.y])


def _cut(rows: Any, size: int) -> list[Any]:
    return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def test_a_planted_slope_is_found():
    sizes = [8, 16, 32]
    exact = inflation_of(3.0, 256, sizes, [3.0 + 40.0 * (1 / size - 1 / 256) for size in sizes])
    assert exact is not None
    assert (exact.slope, exact.misfit) == pytest.approx((40.0, 0.0), abs=1e-9)
    assert exact.at(256) == 3.0
    bent = inflation_of(3.0, 256, sizes, [9.0, 3.0, 9.0])
    assert bent is not None
    assert bent.misfit > 0.3
    assert inflation_of(3.0, 256, [8], [9.0]) is None
    assert inflation_of(3.0, 256, sizes, [9.0, -1.0, 4.0]) is None
    assert inflation_of(math.nan, 256, sizes, [9.0, 5.0, 4.0]) is None


def test_what_does_not_fit_is_unresolved(sounding_plugin: Trial):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    probe = Probe(train=(torch.randn(64, 4), torch.randint(0, 3, (64,))))
    found = sounding_plugin(batch_hessian, model=net, probe=probe, sizes=(8, 16, 32), draws=2, worst_misfit=0.0)
    assert by_group(found, "inflation")[""].quality == "unresolved"
    assert by_group(found, "lambda_max")["B=8"].quality == "ok"


def test_batches_that_fit_are_told_where_the_whole_does_not():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    probe = Probe(train=(torch.randn(EXAMPLES, 6), torch.arange(EXAMPLES) % 3))
    recipe = Recipe("here", 1, {"probe": lambda run: probe})
    given = Model(net, recipe, torch.device("cpu")), recipe, Run("", "", {})
    some, every = (list(batch_hessian(surroundings(*given, memory_gb=size), sizes=(8, 32))) for size in (8e-6, 1.0))
    assert by_group(some, "lambda_max") == {"B=8": by_group(every, "lambda_max")["B=8"]}
    assert set(by_group(every, "lambda_max")) == {"B=8", "B=32"}
    assert {each.metric for each in some if not isinstance(each, Skip)} == {"conditions", "lambda_max"}
    reasons = [each.reason for each in some if isinstance(each, Skip)]
    assert [reason.partition(": ")[0] for reason in reasons] == [
        "lambda_max_full, and what is fitted to it", "batches of 32",
    ]  # fmt: skip
    assert all("GiB" in reason for reason in reasons)


def test_what_is_not_finite_says_so(sounding_plugin: Trial):
    net = nn.Linear(6, 1, bias=False)
    inputs = torch.randn(EXAMPLES, 6)
    inputs[subset_of(Probe(train=(inputs, torch.zeros(EXAMPLES))), "train", EXAMPLES).positions[-1]] *= 1e25
    given: dict[str, Any] = {"model": net, "functions": SQUARED, "sizes": (8, 16), "draws": 2}
    found = sounding_plugin(batch_hessian, probe=Probe(train=(inputs, torch.zeros(EXAMPLES))), **given)
    assert [type(each) for each in found] == [Skip]
    assert "NaN or infinite" in found[0].reason  # type: ignore[union-attr]
    assert not sounding_plugin(batch_hessian, probe=Probe(train=(inputs * 1e25, torch.zeros(EXAMPLES))), **given)
    assert "not finite" in sounding_plugin.reason
