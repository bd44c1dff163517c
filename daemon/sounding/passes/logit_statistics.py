"""The pass `logit_statistics`: how large output logits are on the probe, and their log partition function."""

import math
from dataclasses import dataclass
from typing import Self

import torch

from sounding.batch import Batch
from sounding.contract import Unavailable, accumulator
from sounding.estimates import Estimate
from sounding.losses import is_integral
from sounding.passes.predictions import weighted_mean

_ROWS = 4096  # of logits at once


@dataclass(frozen=True)
class SplitLogits:
    """Of one split; positions of no weight are left out. log Z = log Σ_c exp(z_c)."""

    log_z: Estimate
    log_z_squared: Estimate
    log_z_max: float
    highest: float  # logit
    lowest: float


class LogitStatistics(dict[str, SplitLogits]):
    """By split."""


class LogitStatisticsAccumulator:
    """Keeps two numbers per example, and the extremes."""

    def __init__(self) -> None:
        self._splits: dict[str, _Running] = {}

    def update(self, batch: Batch) -> None:
        """Take in one batch. Raises Unavailable unless outputs are logits of integer targets."""
        outputs, targets = batch.outputs, batch.targets
        fits = isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor) and is_integral(targets)
        if not fits or outputs.ndim < 2 or outputs.shape[:-1] != batch.weights.shape or not outputs.is_floating_point():
            raise Unavailable("outputs are no logits of classes: one row for every integer target")
        self._splits.setdefault(batch.split, _Running()).fill(batch.start, outputs, batch.weights)

    def merge(self, other: Self) -> None:
        """Take in another one's examples and extremes."""
        for name, running in other._splits.items():
            self._splits.setdefault(name, _Running()).merge(running)

    def result(self) -> LogitStatistics:
        """Everything, by split."""
        return LogitStatistics({name: running.finish() for name, running in self._splits.items()})


class _Running:
    def __init__(self) -> None:
        self._sums: dict[int, torch.Tensor] = {}  # by first example; [examples, 3]: of log Z, its square, the weights
        self._extremes = [-math.inf, -math.inf, math.inf]

    def fill(self, start: int, outputs: torch.Tensor, weights: torch.Tensor) -> None:
        flat = outputs.reshape(-1, outputs.shape[-1])
        counted = weights.reshape(-1) != 0
        logs = torch.zeros(len(flat), dtype=torch.float64)
        for first in range(0, len(flat), _ROWS):
            here = counted[first : first + _ROWS]
            rows = flat[first : first + _ROWS]
            if not here.any():
                continue
            rows = rows[here] if rows.dtype == torch.float64 else rows[here].float()
            found = torch.logsumexp(rows, dim=1).cpu().double()
            logs[first : first + _ROWS][here.cpu()] = found
            bounds = torch.aminmax(rows)
            self._widen(float(found.max()), float(bounds.max), float(bounds.min))
        weighing = weights.cpu().double().reshape(len(weights), -1)
        logs = logs.reshape(weighing.shape)
        sums = [(weighing * logs).sum(1), (weighing * logs**2).sum(1), weighing.sum(1)]
        self._sums[start] = torch.stack(sums, dim=1)

    def merge(self, other: "_Running") -> None:
        self._sums.update(other._sums)
        self._widen(*other._extremes)

    def finish(self) -> SplitLogits:
        log_z, squares, weights = torch.cat([self._sums[start] for start in sorted(self._sums)]).unbind(1)
        shares = torch.where(weights != 0, weights, 1.0)
        means = [weighted_mean(each / shares, weights) for each in (log_z, squares)]
        return SplitLogits(means[0], means[1], *self._extremes)

    def _widen(self, log_z: float, highest: float, lowest: float) -> None:
        known = self._extremes
        self._extremes = [_larger(known[0], log_z), _larger(known[1], highest), -_larger(-known[2], -lowest)]


def _larger(old: float, new: float) -> float:
    """The greater one; not a number as soon as one is none."""
    return new if math.isnan(new) or new > old else old


@accumulator(version=1)
def logit_statistics() -> LogitStatisticsAccumulator:
    """Log partition function and extremes of the output logits, by split."""
    return LogitStatisticsAccumulator()
