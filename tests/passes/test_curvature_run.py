"""The largest eigenvalue alone starts from what was found before; borders need one rule for all of the network."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Checkpoint, Run, SoundingError
from sounding.passes.curvature import curvature
from sounding.passes.curvature_run import _LAST, CurvatureRun, curvature_run
from sounding.passes.model import Model
from sounding.passes.optimizer import Group
from sounding.passes.preconditioner import StoredOptimizer
from sounding.passes.stability import border_of
from sounding.recipe import Probe, Recipe

CHECKPOINT = Checkpoint("one", "store", "run", 0, "", "", "", (), 0, datetime.now(UTC))


def run_of(model: nn.Module, checkpoint_id: str, **settings: Any) -> CurvatureRun:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 12, generator=generator)
    probe = Probe(train=(inputs, (inputs @ torch.randn(12, 3, generator=generator)).argmax(1)))
    recipe = Recipe("here", 1, {"probe": lambda run: probe})
    given = Model(model, recipe, torch.device("cpu"))
    curved = curvature(given, recipe, Run("", "", {}), StoredOptimizer(None, ""))
    return curvature_run(curved, replace(CHECKPOINT, checkpoint_id=checkpoint_id), "", **settings)


def test_the_next_checkpoint_starts_from_the_last_ones_eigenvector_and_each_repeats_itself():
    _LAST.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3))
    one = run_of(model, "one")
    cold = one.largest(one.curvature.hessian())
    assert one.largest(one.curvature.hessian()).top == cold.top
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(1.0001)
    two = run_of(model, "two")
    warm = two.largest(two.curvature.hessian())
    assert warm.products < cold.products
    assert two.largest(two.curvature.hessian()).top == warm.top
    _LAST.clear()
    assert two.largest(two.curvature.hessian()).top[0].value == pytest.approx(warm.top[0].value, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"probes": 1}, {"probes": 0}, {"top": 0}, {"products": 0}, {"depth": 0}])
def test_numbers_that_tell_nothing_are_refused(wrong: dict[str, int]):
    ((option, value),) = wrong.items()
    with pytest.raises(SoundingError, match=rf"\[passes\.curvature_run\] {option}: {value} is too few, .* write \d or"):
        run_of(nn.Linear(12, 3), "one", **wrong)


@pytest.mark.parametrize("tolerance", [0.0, -1e-3, math.nan])
def test_a_tolerance_is_above_zero(tolerance: float):
    with pytest.raises(SoundingError, match=r"\[passes\.curvature_run\] tolerance: "):
        run_of(nn.Linear(12, 3), "one", tolerance=tolerance)


def test_two_probes_make_a_standard_error():
    found = run_of(nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3)), "one", probes=2).of("ggn").traces
    assert 0.0 < found.trace.stderr < found.trace.value


def group(kind: str = "sgd", **settings: object) -> Group:
    return Group({"lr": 0.1, **settings}, (), kind)


def test_one_rule_makes_a_border():
    border = border_of([group(momentum=0.9), group(momentum=0.9, weight_decay=1e-4)], [0.1, 0.1])
    assert not isinstance(border, str)
    assert border.value == pytest.approx(38.0)
    adam = border_of([group("adamw", betas=(0.9, 0.99), weight_decay=w) for w in (0.0, 0.5)], [0.1, 0.2])
    assert not isinstance(adam, str)
    assert adam.value == pytest.approx((2 - 0.2 * 0.5) * 19 / 0.1)  # 1 - 0.2·0.5 of the weights is left by decay
    assert adam.preconditioned
    rmsprop = border_of([group("rmsprop", momentum=0.5), group("rmsprop", momentum=0.5)], [0.1, 0.2])
    assert not isinstance(rmsprop, str)
    assert rmsprop.value == pytest.approx(30.0)
    assert rmsprop.preconditioned


@pytest.mark.parametrize(
    ("groups", "rates", "reason"),
    [
        ([group()], [None], "the learning rate is not known"),
        ([group(), group()], [0.1, None], "not known of every group"),
        ([group()], [0.0], "the learning rate is 0"),
        ([group(), group(momentum=0.9)], [0.1, 0.1], "different rules"),
        ([group(), group()], [0.1, 0.2], "different learning rates"),
        ([group("muon")], [0.1], "none is known for muon"),
    ],
)
def test_no_border_without_one_rule(groups: list[Group], rates: list[float | None], reason: str):
    found = border_of(groups, rates)
    assert isinstance(found, str)
    assert reason in found
