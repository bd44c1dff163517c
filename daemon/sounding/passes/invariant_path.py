"""The pass `invariant_path`: the scale-invariant weights of a run as one line, from readings of its checkpoints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from sounding.contract import Unavailable, shared_pass
from sounding.keeping.past import Course, Line
from sounding.passes.checkpoints import Checkpoints, Stop
from sounding.passes.optimizer import Group, optimizer
from sounding.passes.pair import rounding
from sounding.passes.past import History
from sounding.passes.scale_invariance import scale_invariance

Floats = NDArray[np.float64]
_ALIKE = 0.25  # share by which a spacing may differ from the usual one
_MEASURED = "symmetry.slices"
_OWN = 1  # the version of what is done here


@dataclass(frozen=True)
class InvariantPath:
    """The scale-invariant weights from checkpoint to checkpoint; arrays of one length.

    `turns` is 1 - cosine to the preceding checkpoint, a mean over the weights by their share of the squared norm;
    `decays` is the share r that decay takes of a weight in one update. Both, and the learning `rates`, are NaN where
    they were not measured. `group` is None where the newest checkpoint does not tell one for all.
    """

    parts: tuple[str, ...]
    times: Floats  # updates, or steps where they are not known
    counted: bool  # whether they are updates
    norms: Floats  # of all weights as one vector
    turns: Floats
    rates: Floats
    decays: Floats
    group: Group | None
    floor: float  # what rounding to the stored types makes of 1 - cosine
    freedom: int  # directions across the weights: elements, less one for each independent slice; below 1: not known
    lost: int  # checkpoints with norms that are NaN or infinite, left out

    @property
    def power(self) -> float:
        """The effective learning rate falls with this power of the norm: 2 of SGD, 1 where updates have one size."""
        return 2.0 if self.group is None or self.group.kind in ("sgd", "sgdw") else 1.0

    @property
    def elr(self) -> Floats:
        """Effective learning rates, rate over that power of the norm; with a rate of 1 where it is not known at all."""
        known = self.rates if np.isfinite(self.rates).any() else np.ones_like(self.norms)
        return np.asarray(known / self.norms**self.power)

    @property
    def even_turns(self) -> Floats:
        """The known turns over spacings that are about the usual one, as cosines depend on it."""
        if len(self.times) < 2:
            return np.array([])
        spacings = np.diff(self.times)
        usual = float(np.median(spacings))
        return np.asarray(self.turns[1:][(np.abs(spacings - usual) <= _ALIKE * usual) & np.isfinite(self.turns[1:])])

    def settled(self, factor: float) -> int:
        """The first row from which on the effective learning rate stays within a factor of its last known one."""
        known = self.elr[np.isfinite(self.elr)]
        if not len(known):
            return 0
        away = np.flatnonzero(np.abs(np.log(self.elr / known[-1])) > math.log(factor))
        return int(away[-1]) + 1 if len(away) else 0

    def between(self, first: int, last: int) -> "InvariantPath":
        """The rows from `first` up to `last`, without it."""
        rows = slice(first, last)
        return replace(
            self,
            times=self.times[rows],
            norms=self.norms[rows],
            turns=self.turns[rows],
            rates=self.rates[rows],
            decays=self.decays[rows],
        )


@dataclass(frozen=True)
class _Told:
    """What one checkpoint tells of the weights."""

    slices: dict[str, int]
    group: Group | None
    index: int
    floor: float


# Both others are called for the newest checkpoint, which is none that the engine has them for: where the version of
# one is raised, so is this.
@shared_pass(version=_OWN + optimizer.version + scale_invariance.version)
def invariant_path(history: History, checkpoints: Checkpoints, *, patterns: tuple[str, ...] = ()) -> InvariantPath:
    """Norms and turns that `weight_norm` and `weight_change` read, of weights found scale invariant.

    These are the weights that `symmetry` measured to be so, and those that the newest checkpoint's names prove or whose
    names match one of the regular expressions `patterns`.
    """
    measured = {line.part: int(course.values[-1]) for line, course in history.items() if line.metric == _MEASURED}
    newest = next((_told(stop, measured, patterns) for stop in reversed(checkpoints)), None)
    told = newest or _Told(measured, None, 0, 0.0)
    if not told.slices:
        raise Unavailable(
            "no scale-invariant weights are known: names prove none, the plugin `symmetry` measured none, and "
            "[passes.invariant_path] patterns names none"
        )
    parts = tuple(told.slices)
    found = [history.course("weight_norm.frobenius", part) for part in parts]
    norms = [each for each in found if each is not None]
    if len(norms) < len(parts):
        raise Unavailable("the norms of the scale-invariant weights were not read: it needs the plugin `weight_norm`")
    return _path(history, told, parts, norms)


def _told(stop: Stop, measured: dict[str, int], patterns: tuple[str, ...]) -> _Told:
    weights = stop.weights
    named = {name: each.slices for name, each in scale_invariance(weights, patterns=patterns).items()}
    slices = {name: count for name, count in {**named, **measured}.items() if name in weights}
    floor = max((rounding(weights[name].dtype) ** 2 for name in slices), default=0.0)
    try:
        groups = optimizer(stop.opened, weights).groups
    except Unavailable:
        return _Told(slices, None, 0, floor)
    if len(groups) == 1:
        return _Told(slices, groups[0], 0, floor)  # whichever weights are in it, there is nowhere else to be
    homes = {index for index, group in enumerate(groups) if not slices.keys().isdisjoint(group.parameters)}
    if len(homes) != 1 or not slices.keys() <= set(groups[next(iter(homes))].parameters):
        return _Told(slices, None, 0, floor)
    index = homes.pop()
    return _Told(slices, groups[index], index, floor)


def _path(history: History, told: _Told, parts: tuple[str, ...], norms: Sequence[Course]) -> InvariantPath:
    with np.errstate(invalid="ignore"):  # where weights are infinite or not numbers
        return _joined(history, told, parts, norms)


def _joined(history: History, told: _Told, parts: tuple[str, ...], norms: Sequence[Course]) -> InvariantPath:
    steps = reduce(np.intersect1d, [each.steps for each in norms])
    squares = np.stack([_at(steps, each) for each in norms]) ** 2
    totals = squares.sum(axis=0)
    angles = np.stack([_at(steps, history.course("weight_change.rotation", part)) for part in parts])
    turns = (squares * 2.0 * np.sin(angles / 2.0) ** 2).sum(axis=0) / totals
    updates = np.rint(_at(steps, replace(norms[0], values=norms[0].updates)))
    counted = not bool(np.isnan(updates).any())
    kept = np.isfinite(totals) & (totals > 0.0)
    return InvariantPath(
        parts,
        (updates if counted else steps.astype(np.float64))[kept],
        counted,
        np.sqrt(totals[kept]),
        turns[kept],
        _of_group(history, told, "learning_rate", steps)[kept],
        _of_group(history, told, "decay_rate", steps)[kept],
        told.group,
        told.floor,
        _elements(history, parts) - sum(told.slices.values()),
        int((~kept).sum()),
    )


def _at(steps: NDArray[np.int64], course: Course | None) -> Floats:
    """A course's values at these steps, NaN where it has none."""
    if course is None:
        return np.full(len(steps), np.nan)
    rows = np.searchsorted(course.steps, steps).clip(max=len(course.steps) - 1)
    return np.where(course.steps[rows] == steps, course.values[rows], np.nan)


def _of_group(history: History, told: _Told, metric: str, steps: NDArray[np.int64]) -> Floats:
    course = history.get(Line(f"effective_learning_rate.{metric}", index=told.index))
    return _at(steps, course if told.group is not None else None)


def _elements(history: History, parts: Sequence[str]) -> int:
    """Elements of the weights, told by their norms and root mean squares."""
    count = 0.0
    for part in parts:
        norm, rms = history.course("weight_norm.frobenius", part), history.course("weight_norm.rms", part)
        ratios = np.array([]) if norm is None or rms is None else norm.values / _at(norm.steps, rms)
        ratios = ratios[np.isfinite(ratios)]
        count += float(ratios[-1]) ** 2 if len(ratios) else np.nan
    return 0 if np.isnan(count) else round(count)
