"""The pass `predictions`: what the network makes of every example of the probe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from sounding.batch import Batch
from sounding.contract import Run, accumulator
from sounding.estimates import Estimate
from sounding.keyed import Keyed
from sounding.losses import is_integral
from sounding.probe import Probe
from sounding.recipe import Recipe


@dataclass(frozen=True)
class SplitPredictions:
    """One split, in the probe's order; every tensor is float64 of shape [examples] on the CPU unless said.

    For token probes an example is a sequence: `losses` and `correct` are its weighted means over positions and
    `weights` the sum of its positions' weights, so that weighted means over examples are means over tokens.
    """

    ids: Sequence[Any]
    losses: torch.Tensor
    weights: torch.Tensor
    correct: torch.Tensor | None  # share of right answers; None unless outputs are logits of integer targets
    predicted: torch.Tensor | None  # int64, the greatest logit's class; None for token probes and other outputs
    groups: Mapping[str, Sequence[Any]]
    flags: Mapping[str, Sequence[Any]]

    def mean_loss(self) -> Estimate:
        """The weighted mean loss, as a trainer computes it."""
        return weighted_mean(self.losses, self.weights)

    def accuracy(self) -> Estimate | None:
        """The weighted share of right answers, where outputs are logits of integer targets."""
        return None if self.correct is None else weighted_mean(self.correct, self.weights)


class Predictions(Keyed[str, SplitPredictions]):
    """Predictions of every split of the probe, by name."""


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> Estimate:
    """Σwx/Σw over examples, and its standard error from the spread between examples.

    The error is that of a ratio of sums, √(n/(n-1)·Σ(w(x - mean))²)/Σw; with equal weights it is s/√n.
    """
    count = int((weights != 0).sum())
    total = float(weights.sum())
    if total == 0:
        return Estimate(math.nan, math.nan)
    counted = torch.where(weights != 0, values, 0.0)  # what weighs nothing may be anything, NaN included
    mean = float((weights * counted).sum()) / total
    if count < 2:
        return Estimate(mean, math.nan)
    squares = float(((weights * (counted - mean)) ** 2).sum())
    return Estimate(mean, math.sqrt(count / (count - 1) * squares) / total)


class PredictionsAccumulator:
    """Fills one row per example, whatever the length of a sequence: memory is bounded by the number of examples."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._rows: dict[str, _Rows] = {}

    def update(self, batch: Batch) -> None:
        """Take in one batch."""
        if batch.split not in self._rows:
            self._rows[batch.split] = _Rows(self._probe.splits[batch.split].size)
        self._rows[batch.split].fill(batch)

    def merge(self, other: Self) -> None:
        """Take in the rows that another one has filled."""
        for name, rows in other._rows.items():
            if name in self._rows:
                self._rows[name].merge(rows)
            else:
                self._rows[name] = rows

    def result(self) -> Predictions:
        """Everything, by split."""
        return Predictions({name: rows.finish(self._probe, name) for name, rows in self._rows.items()})


class _Rows:
    def __init__(self, size: int) -> None:
        self._filled = torch.zeros(size, dtype=torch.bool)
        self.losses = torch.full((size,), math.nan, dtype=torch.float64)
        self.weights = torch.zeros(size, dtype=torch.float64)
        self.correct: torch.Tensor | None = torch.zeros(size, dtype=torch.float64)
        self.predicted: torch.Tensor | None = torch.zeros(size, dtype=torch.int64)

    def fill(self, batch: Batch) -> None:
        rows = slice(batch.start, batch.start + batch.size)
        losses, weights = batch.losses.cpu(), batch.weights.cpu()
        self._filled[rows] = True
        self.losses[rows] = _by_example(losses, weights)
        self.weights[rows] = weights.reshape(batch.size, -1).sum(1)
        guesses = classes(batch)
        if guesses is None:
            self.correct = self.predicted = None
        if guesses is not None and self.correct is not None:
            right = (guesses == batch.targets).to("cpu", torch.float64)
            self.correct[rows] = _by_example(right, weights)
        if guesses is None or guesses.ndim != 1:
            self.predicted = None
        elif self.predicted is not None:
            self.predicted[rows] = guesses.cpu()

    def merge(self, other: "_Rows") -> None:
        rows = other._filled
        self._filled |= rows
        self.losses[rows], self.weights[rows] = other.losses[rows], other.weights[rows]
        if self.correct is not None and other.correct is not None:
            self.correct[rows] = other.correct[rows]
        else:
            self.correct = None
        if self.predicted is not None and other.predicted is not None:
            self.predicted[rows] = other.predicted[rows]
        else:
            self.predicted = None

    def finish(self, probe: Probe, name: str) -> SplitPredictions:
        groups, flags = probe.groups_of(name), probe.flags_of(name)
        ids = probe.ids_of(name)
        return SplitPredictions(ids, self.losses, self.weights, self.correct, self.predicted, groups, flags)


def classes(batch: Batch) -> torch.Tensor | None:
    """The greatest logit's class, shaped as the targets; None unless outputs are logits of integer targets."""
    outputs, targets = batch.outputs, batch.targets
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor) or not is_integral(targets):
        return None
    if outputs.ndim != targets.ndim + 1 or outputs.shape[:-1] != targets.shape or targets.shape != batch.losses.shape:
        return None
    return outputs.argmax(-1)


def _by_example(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of every row; the value itself where a row is a single one."""
    if values.ndim == 1:
        return values
    sums = torch.where(weights != 0, values * weights, 0.0).sum(1)
    totals = weights.sum(1)
    return torch.where(totals != 0, sums / totals, 0.0)


@accumulator(version=1)
def predictions(recipe: Recipe, run: Run) -> PredictionsAccumulator:
    """Loss, predicted class and correctness of every example, in evaluation mode."""
    return PredictionsAccumulator(recipe.probe(run))
