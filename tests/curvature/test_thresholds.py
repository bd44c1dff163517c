"""Stability borders against where torch's own optimizers begin to grow on a quadratic in one dimension."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sounding.curvature.thresholds import Rule, threshold_of

Make = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
RATE = 0.01
UNIT = 1.0  # epsilon of adaptive methods: far above the gradients' roots, it makes the preconditioner 1


def grows(make: Make, curvature: float, steps: int = 120) -> bool:
    """Whether a tiny displacement, which leaves the preconditioner alone, grows on h·x²/2."""
    x = torch.tensor([1e-150], dtype=torch.float64, requires_grad=True)
    optimizer = make([x])
    sizes = []
    for _ in range(steps):
        x.grad = curvature * x.detach()
        optimizer.step()
        sizes.append(abs(x.item()))
    return max(sizes[-20:]) > max(sizes[steps // 2 : steps // 2 + 20])


def border(make: Make, guess: float) -> float:
    low, high = 0.3 * guess, 3.0 * guess
    assert not grows(make, low)
    assert grows(make, high)
    while high / low > 1.002:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if grows(make, middle) else (middle, high)
    return math.sqrt(low * high)


def sgd(**settings: Any) -> Make:
    return lambda parameters: torch.optim.SGD(parameters, lr=RATE, **settings)


def adam(kind: Any, **settings: Any) -> Make:
    def made(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        optimizer = kind(parameters, lr=RATE, eps=UNIT, **settings)
        zero = torch.zeros_like(parameters[0])
        optimizer.state[parameters[0]] = {"step": torch.tensor(1e6), "exp_avg": zero, "exp_avg_sq": zero.clone()}
        return optimizer

    return made


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (sgd(), Rule("sgd", RATE)),
        (sgd(momentum=0.9), Rule("sgd", RATE, momentum=0.9)),
        (sgd(momentum=0.5, dampening=0.3), Rule("sgd", RATE, momentum=0.5, dampening=0.3)),
        (sgd(momentum=0.9, nesterov=True), Rule("sgd", RATE, momentum=0.9, nesterov=True)),
        (sgd(momentum=0.5, weight_decay=40.0), Rule("sgd", RATE, momentum=0.5, weight_decay=40.0)),
        (sgd(momentum=0.5, weight_decay=9.0, nesterov=True),
         Rule("sgd", RATE, momentum=0.5, nesterov=True, weight_decay=9.0)),
        (adam(torch.optim.Adam), Rule("adam", RATE, momentum=0.9)),
        (adam(torch.optim.Adam, betas=(0.5, 0.99)), Rule("adam", RATE, momentum=0.5)),
        (adam(torch.optim.Adam, weight_decay=500.0), Rule("adam", RATE, momentum=0.9, weight_decay=500.0)),
        (adam(torch.optim.AdamW, weight_decay=30.0),
         Rule("adamw", RATE, momentum=0.9, weight_decay=30.0, decoupled=True)),
        (lambda parameters: torch.optim.RMSprop(parameters, lr=RATE, eps=UNIT, momentum=0.6),
         Rule("rmsprop", RATE, momentum=0.6)),
    ],
)  # fmt: skip
def test_the_border_is_where_torchs_optimizer_begins_to_grow(make: Make, rule: Rule):
    threshold = threshold_of(rule)
    assert threshold is not None
    assert border(make, threshold.value - threshold.shift) == pytest.approx(threshold.value - threshold.shift, rel=5e-3)


def test_known_values():
    adam = threshold_of(Rule("adam", 0.1, momentum=0.9))
    assert adam is not None
    assert adam.value == pytest.approx(380.0)  # 38/η
    assert adam.preconditioned


def test_what_has_no_threshold():
    assert threshold_of(Rule("sgd", 0.0)) is None
    assert threshold_of(Rule("lion", 1e-4)) is None
    assert threshold_of(Rule("muon", 0.02, momentum=0.95)) is None
