"""Whether the weights turn as fast as the optimizer's steps and weight decay will have them turn in the end."""

import math
from collections.abc import Callable, Iterator
from functools import partial

from sounding import Checkpoint, Finding, Metric, Reading, Skip, plugin
from sounding.passes import (
    Group,
    Moments,
    Optimizer,
    Other,
    Pair,
    Weights,
    angle_of,
    decay_rate,
    equilibrium_of,
    rates_of,
    updates_between,
)
from sounding.records import Quality

_KOSSON = "Kosson et al. 2023, arXiv:2305.17212; derived in the docs"
_MEMORIES = 20.0  # memories of the optimizer after which the cosine is e^(-rk) to 5 % whatever the optimizer
_VARIED = 1.5  # factor between the two checkpoints' rates beyond which one rate cannot stand for both


@plugin(
    version=2,
    over="pair",
    against="previous",
    metrics=[
        Metric("expected_rotation", "rad", "angle over as many updates in the balance of steps and decay", _KOSSON),
        Metric(
            "distance",
            "1",
            "root of measured over expected log cosine: 1 in the balance",
            _KOSSON,
        ),
        Metric("kept", "fraction", "share of the preceding weights that decay leaves; index is the group", _KOSSON),
        Metric("growth_decay", "1", "factor of the effective learning rate through the norm alone", _KOSSON),
    ],
)
def rotational_equilibrium(
    pair: Pair, optimizer: Optimizer, weights: Weights, checkpoint: Checkpoint, other: Other
) -> Iterator[Finding]:
    """Rotation against that of the equilibrium, what decay has left of the weights, and what growth did to the rate."""
    updates = updates_between(other.checkpoint, checkpoint)
    if updates is None:
        yield Skip("how many updates lie between the two checkpoints is not known")
        return
    now, then = rates_of(optimizer.groups, checkpoint.progress), rates_of(optimizer.groups, other.checkpoint.progress)
    before = rates_of(other.optimizer.groups, other.checkpoint.progress)
    then = before if len(before.values) == len(now.values) else then
    for index, group in enumerate(optimizer.groups):
        one, two = then.values[index], now.values[index]
        if not one or not two:
            yield Skip(
                f"the learning rate of parameter group {index} is zero or not stored in one of the two checkpoints"
            )
            continue
        alike = max(one, two) <= _VARIED * min(one, two)
        quality: Quality = "ok" if now.certain and then.certain and alike else "unresolved"
        rate = (one + two) / 2.0
        share = decay_rate(group, rate)
        if share is not None and share < 1.0:
            kept = math.exp(updates * math.log1p(-share))
            yield Reading("kept", kept, kind=group.kind, index=index, quality=quality)
        yield from _group(group, pair, weights, partial(_expected, group, rate, share, updates), quality)


def _group(
    group: Group, pair: Pair, weights: Weights, expected: Callable[[tuple[int, ...]], float | None], quality: Quality
) -> Iterator[Finding]:
    losses: dict[tuple[int, ...], float | None] = {}
    for name in group.parameters:
        moments = pair.moments.get(name)
        if moments is None or not moments.before or not moments.after:
            continue
        power = 1.0 if group.kind in ("sgd", "sgdw") else 0.5  # of squared norms: η/‖w‖², or η/‖w‖
        yield Reading("growth_decay", (moments.before / moments.after) ** power, part=name, quality=quality)
        shape = weights.shape(name) if group.kind == "muon" else ()  # to all others it is one
        if shape not in losses:
            losses[shape] = expected(shape)
        if (loss := losses[shape]) is None:
            continue
        yield Reading("expected_rotation", angle_of(loss), part=name, kind=group.kind, quality=quality)
        yield from _distance(moments, loss, name, quality)


def _distance(moments: Moments, expected: float, name: str, quality: Quality) -> Iterator[Finding]:
    recall = 1.0 - 4.0 / math.sqrt(moments.count)  # independent directions have a cosine of 1/√n
    if not moments.cosine_loss < recall:
        yield Skip("it turned so far that its cosine is lost among those of independent directions", part=name)
    elif not expected < recall:
        yield Skip("so many updates lie between that the balance itself forgets the direction", part=name)
    else:
        ratio = math.log1p(-moments.cosine_loss) / math.log1p(-expected)
        found: Quality = quality if moments.resolved else "unresolved"
        yield Reading("distance", math.sqrt(ratio), part=name, quality=found)


def _expected(group: Group, rate: float, share: float | None, updates: int, shape: tuple[int, ...]) -> float | None:
    """1 - the cosine in the balance; for optimizers without a formula only where they have long forgotten."""
    balance = equilibrium_of(group, rate, shape)
    if balance is not None:
        return balance.cosine_loss(updates)
    memory = 1.0 / (1.0 - min(0.9999, max(group.momentum, *group.betas[:1], 0.0)))
    if share and group.decoupled and updates >= _MEMORIES * memory:
        return -math.expm1(updates * math.log1p(-share))
    return None
