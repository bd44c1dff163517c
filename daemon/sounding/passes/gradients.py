"""The pass `gradients`: the gradient of the mean loss over the probe's train split."""

from collections.abc import Mapping
from typing import Self

import torch

from sounding.batch import Batch
from sounding.contract import accumulator
from sounding.errors import SoundingError
from sounding.keyed import Keyed
from sounding.numbers import accumulating
from sounding.probe import TRAIN


class Gradients(Keyed[str, torch.Tensor]):
    """Gradient of the (weighted) mean loss by parameter name, float64 where the device has it.

    Taken in evaluation mode: BatchNorm normalises by its running statistics and no dropout acts, so this is the
    gradient of the function that is evaluated, not the one training sees. `unused` names the parameters that the
    loss does not reach; they are not among the gradients.
    """

    def __init__(self, means: Mapping[str, torch.Tensor], unused: tuple[str, ...]) -> None:
        super().__init__(means)
        self.unused = unused


class GradientsAccumulator:
    """Sums the batches' gradients of summed losses; divided once, so that no batch counts by its size."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._names: dict[str, None] = {}
        self._weight = 0.0

    def update(self, batch: Batch) -> None:
        """Take in one batch; only the train split carries gradients."""
        if batch.split != TRAIN or batch.gradients is None:
            return
        self._weight += float(batch.weights.sum())
        for name, gradient in batch.gradients.items():
            self._names[name] = None
            if gradient is None:
                continue
            self._add(name, gradient.to(accumulating(gradient.device)))

    def merge(self, other: Self) -> None:
        """Add another one's sums."""
        self._weight += other._weight
        self._names.update(other._names)
        for name, total in other._sums.items():
            self._add(name, total)

    def result(self) -> Gradients:
        """The gradient of the mean loss."""
        if self._weight == 0:
            raise SoundingError("every loss weight in the probe's train split is zero, so there is no mean loss.")
        means = {name: self._sums[name] / self._weight for name in self._names if name in self._sums}
        return Gradients(means, tuple(name for name in self._names if name not in self._sums))

    def _add(self, name: str, exact: torch.Tensor) -> None:
        if name in self._sums:
            self._sums[name] += exact
        else:
            self._sums[name] = exact.clone()


@accumulator(version=1, gradients=True)
def gradients() -> GradientsAccumulator:
    """Gradient of the mean loss over the train split, in evaluation mode."""
    return GradientsAccumulator()
