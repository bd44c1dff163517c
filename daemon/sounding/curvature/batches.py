"""Curvature of the losses of mini-batches: each has a gradient and a Hessian of its own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sounding.contract import Unavailable
from sounding.curvature.eigenvalues import Eigenvalue, largest_alone
from sounding.curvature.engines import Shelf, Sum
from sounding.curvature.examination import Examined
from sounding.curvature.krylov import extremes, starting_vector
from sounding.curvature.memory import LEAST, Memory, chunks_of
from sounding.curvature.objective import Objective
from sounding.curvature.operator import Operator
from sounding.errors import SoundingError

Floats = NDArray[np.float64]
T = TypeVar("T")


class TooLarge(Unavailable):
    """What is asked for does not fit into the memory that it may take."""


class Batches:
    """The examples of an objective in batches of `size`, each with a mean loss of its own; a rest is left out.

    No more than `most` examples go through the network at once, except where BatchNorm normalises by the batch.
    `name` is that of the settings that `memory` is told by. Raises TooLarge where not even one chunk fits.
    """

    def __init__(
        self, objective: Objective, size: int, most: int, examined: Examined, memory: Memory, name: str
    ) -> None:
        whole = objective.statistics == "train"
        what = f"one batch of {size}" if whole else "one example"
        require_fit(memory, examined.need.peak(size if whole else 1), f"a product for {what}", name)
        chunks = chunks_of(size, size if whole else 0, examined.need, memory)
        length = len(chunks[0]) if whole else min(most, len(chunks[0]))
        self._chunks = [range(at, min(at + length, size)) for at in range(0, size, length)]
        self._objective, self._examined, self._memory = objective, examined, memory
        self._starts = range(0, len(objective.positions) - size + 1, size)

    def each(self, most: int, ask: Callable[["MiniBatch"], T]) -> list[T]:
        """What is asked of the first batches, at most so many; no two of them are there at once."""
        return [ask(self._batch(start)) for start in self._starts[:most]]

    def _batch(self, start: int) -> "MiniBatch":
        chunks = [range(start + each.start, start + each.stop) for each in self._chunks]
        return MiniBatch(self._objective, chunks, self._examined, self._memory)


class MiniBatch:
    """The mean loss of a group of chunks: its `gradient`, and its Hessian as an `operator`.

    As many graphs are kept as `memory` allows; the others are built anew for each product, which `way` tells. Raises
    Unavailable where every loss of the batch weighs nothing.
    """

    def __init__(self, objective: Objective, chunks: Sequence[range], examined: Examined, memory: Memory) -> None:
        try:
            summed = Sum("hessian", examined.engine, objective, chunks, examined.need, Shelf(memory.graphs))
        except SoundingError as error:  # what can be wrong with the network or the recipe has been examined
            raise Unavailable(f"a batch has no mean loss: {error}") from None
        assert summed.gradient is not None, "a Hessian's first pass takes the gradient"
        self.gradient = summed.gradient
        self.way = summed.way
        self._room = max(2, memory.vectors_beside(summed.peak))
        multiply = partial(summed.multiply, places=range(len(objective.leaves)))
        self.operator = Operator(objective.layout.size, objective.device, objective.dtype, multiply)

    def along_gradient(self) -> tuple[float, float]:
        """gᵀHg and gᵀg."""
        product = self.operator.matmat(self.gradient[None])[0]
        slope = self.gradient.double()
        return float(slope @ product.double()), float(slope @ slope)

    def lambda_max(self, tolerance: float) -> Eigenvalue | None:
        """The largest eigenvalue of the Hessian; None where a product is not finite."""
        wanted = largest_alone(tolerance, most_vectors=self._room)
        found = extremes(self.operator, starting_vector(self.gradient, self.operator), wanted)
        return found.top[0] if found.top else None


def require_fit(memory: Memory, peak: float, what: str, name: str) -> None:
    """Raise TooLarge, with the sum, where what takes so many bytes does not fit beside the fewest vectors."""
    vectors = LEAST * memory.vector
    if peak + vectors > memory.budget:
        peak_gb, vectors_gb, budget_gb = (each / (1 << 30) for each in (peak, vectors, memory.budget))
        raise TooLarge(
            f"{what} takes {peak_gb:.2g} GiB and {LEAST} vectors {vectors_gb:.2g} GiB, of which memory_gb allows "
            f"{budget_gb:.2g} GiB; raise it in [{name}], or select fewer parameters"
        )


@dataclass(frozen=True)
class Inflation:
    """λ_max(B) = `full` + `slope`·(1/B - 1/N), fitted to means over batches; `misfit` is relative, root mean square."""

    full: float
    slope: float
    stderr: float | None
    misfit: float
    examples: int

    def at(self, size: float) -> float:
        """The largest eigenvalue to be expected of a batch of this size."""
        return self.full + self.slope * (1.0 / size - 1.0 / self.examples)


def inflation_of(full: float, examples: int, sizes: Sequence[int], means: Sequence[float]) -> Inflation | None:
    """The slope by least squares of relative errors; None for fewer than two sizes below `examples`."""
    x = np.array([1.0 / size - 1.0 / examples for size in sizes])
    y = np.array(means)
    if len(x) < 2 or not np.all(y > 0) or not math.isfinite(full):
        return None
    a, b = x / y, (y - full) / y
    slope = float(a @ b / (a @ a))
    rest = b - slope * a
    error = math.sqrt(float(rest @ rest) / (len(x) - 1) / float(a @ a))
    return Inflation(full, slope, error, math.sqrt(float(np.mean(rest**2))), examples)
