"""How far one update reaches against the size of the weights, and the balance it tends to with weight decay."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sounding import Checkpoint, Finding, Metric, Reading, Skip, plugin
from sounding.passes import (
    Group,
    Magnitudes,
    Optimizer,
    ScaleInvariance,
    Weights,
    angle_of,
    decay_rate,
    equilibrium_of,
    rates_of,
)
from sounding.passes.pair import moments_of
from sounding.records import Quality

_UNIT = {"adam", "adamw", "adam or adamw", "adan", "adamax", "lion", "nadam", "radam", "soap"}  # updates of RMS ~ 1
_FORMS = {"sgd": "elr", "sgdw": "elr", "muon": "elr_fixed", **dict.fromkeys(_UNIT, "elr_adam")}
_KOSSON = "Kosson et al. 2023, arXiv:2305.17212; derived in the docs"


@dataclass(frozen=True)
class _Trained:
    """A weight with the settings it is trained under."""

    name: str
    norm: float
    shape: tuple[int, ...]
    group: Group
    rate: float
    kind: str  # how it was found scale invariant, "" if it was not

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def form(self) -> str:
        return _FORMS.get(self.group.kind, "")


@plugin(
    version=3,
    metrics=[
        Metric(
            "learning_rate", "1", "rate of the last update; index is the parameter group, label the source", "stored"
        ),
        Metric("elr", "1/weight²", "SGD: learning rate over squared norm", "van Laarhoven 2017, arXiv:1706.05350"),
        Metric("elr_adam", "rad", "Adam and its kind: learning rate over the weights' root mean square", _KOSSON),
        Metric("elr_fixed", "1/weight", "updates of a fixed norm (Muon): learning rate over norm", "definition"),
        Metric(
            "decay_rate", "1/update", "share r of a weight that decay takes in an update; index is the group", _KOSSON
        ),
        Metric("relaxation", "updates", "1/(2r): updates in which decay alone takes |w|² to 1/e of it", _KOSSON),
        Metric("equilibrium_rotation", "rad", "angle of one update in the balance of steps and weight decay", _KOSSON),
        Metric("equilibrium_norm", "weight", "norm in that balance; of SGD, by the noise in its momentum", _KOSSON),
        Metric("norm_ratio", "1", "norm over equilibrium_norm", "definition"),
    ],
)
def effective_learning_rate(
    magnitudes: Magnitudes,
    optimizer: Optimizer,
    scale_invariance: ScaleInvariance,
    weights: Weights,
    checkpoint: Checkpoint,
) -> Iterator[Finding]:
    """Effective learning rates per tensor and in total, and the norm and rotation at which decay balances updates."""
    rates = rates_of(optimizer.groups, checkpoint.progress)
    quality: Quality = "ok" if rates.certain else "unresolved"
    trained: list[_Trained] = []
    for index, (group, rate) in enumerate(zip(optimizer.groups, rates.values, strict=True)):
        if rate is None or rate <= 0.0:
            told = "none is stored" if rate is None else "it is zero, as at the end of a schedule"
            yield Skip(f"no learning rate for parameter group {index}: {told}")
            continue
        yield Reading("learning_rate", rate, label=rates.source, kind=group.kind, index=index, quality=quality)
        yield from _decay(group, rate, index, quality)
        for name in group.parameters:
            if name in magnitudes and magnitudes[name].norm > 0.0:
                kind = scale_invariance[name].method if name in scale_invariance else ""
                trained.append(_Trained(name, magnitudes[name].norm, magnitudes[name].shape, group, rate, kind))
    if not any(group.parameters for group in optimizer.groups):
        yield Skip(f"which weights belong to which settings is {optimizer.mapping}")
    for each in trained:
        if each.form:
            yield Reading(each.form, _effective(each.form, each.rate, each.norm, each.count), None, each.name,
                          kind=each.kind, quality=quality)  # fmt: skip
        yield from _balance(each, optimizer, weights, quality)
    yield from _total([each for each in trained if each.kind] or trained, quality)


def _effective(form: str, rate: float, norm: float, count: int) -> float:
    if form == "elr":
        return rate / norm**2
    return rate / norm * (math.sqrt(count) if form == "elr_adam" else 1.0)


def _decay(group: Group, rate: float, index: int, quality: Quality) -> Iterator[Finding]:
    share = decay_rate(group, rate)
    if share is None:
        yield Skip(
            f"weight decay of {group.kind} (parameter group {index}) has no rate that is the same for all weights"
        )
        return
    yield Reading("decay_rate", share, kind=group.kind, index=index, quality=quality)
    if share > 0.0:
        yield Reading("relaxation", 0.5 / share, kind=group.kind, index=index, quality=quality)


def _balance(of: _Trained, optimizer: Optimizer, weights: Weights, quality: Quality) -> Iterator[Finding]:
    balance = equilibrium_of(of.group, of.rate, of.shape)
    if balance is None:
        return
    angle = angle_of(balance.cosine_loss(1))
    yield Reading("equilibrium_rotation", angle, part=of.name, kind=of.kind, quality=quality)
    if of.group.kind == "sgd":
        noise = _noise(of, optimizer, weights)
        norm = None if noise is None else (balance.spread * noise * of.norm**2) ** 0.25
    else:
        norm = math.sqrt(of.count * balance.spread)
    if norm and math.isfinite(norm):
        yield Reading("equilibrium_norm", norm, part=of.name, kind=of.kind, quality=quality)
        yield Reading("norm_ratio", of.norm / norm, part=of.name, kind=of.kind, quality=quality)


def _noise(of: _Trained, optimizer: Optimizer, weights: Weights) -> float | None:
    """E‖g‖² at right angles to the weights, from the momentum buffer: white noise has (1-τ)²/(1-μ²) of it there."""
    buffer = optimizer.first_moment(of.name)
    if buffer is None or of.group.momentum == 0.0:
        return None
    sums = moments_of(buffer, weights[of.name])
    along = (sums.before + sums.after - sums.change) / 2.0
    sideways = max(0.0, sums.before - along**2 / sums.after)
    return sideways * (1.0 - of.group.momentum**2) / (1.0 - (of.group.number("dampening") or 0.0)) ** 2


def _total(members: list[_Trained], quality: Quality) -> Iterator[Finding]:
    """Of the scale-invariant weights where any are known, else of all, if they are trained alike."""
    ways = {(each.form, each.rate) for each in members}
    if len(ways) != 1:
        if members:
            yield Skip("no total: the weights are trained by several rates or kinds of optimizer")
        return
    ((form, rate),) = ways
    if form:
        norm = math.sqrt(sum(each.norm**2 for each in members))
        kind = " + ".join(sorted({each.kind for each in members})) or "all"
        value = _effective(form, rate, norm, sum(each.count for each in members))
        yield Reading(form, value, kind=kind, quality=quality)
