"""Curvature of the losses of mini-batches: each has a gradient and a Hessian of its own."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sounding.contract import Unavailable
from sounding.curvature.eigenvalues import Eigenvalue, largest_alone
from sounding.curvature.examination import operation_in
from sounding.curvature.hessian import HessianGraph
from sounding.curvature.krylov import extremes, starting_vector
from sounding.curvature.operator import Operator
from sounding.curvature.surroundings import Surroundings

Floats = NDArray[np.float64]


class MiniBatch:
    """The mean loss of a group of chunks: its `gradient`, and its Hessian as an `operator`; their graphs are kept.

    Raises Unavailable where the network cannot be differentiated twice, or every loss of the batch weighs nothing.
    """

    def __init__(self, around: Surroundings, chunks: Sequence[range]) -> None:
        self._objective = around.objective
        self._all = range(len(self._objective.leaves))
        with _differentiated_twice():
            self._graphs = [HessianGraph(self._objective, chunk, self._all) for chunk in chunks]
        self._weight = sum(graph.weight for graph in self._graphs)
        if self._weight == 0:
            raise Unavailable("every loss weight of a batch is zero, so it has no mean loss")
        layout = self._objective.layout
        self.gradient = torch.zeros(layout.size, dtype=self._objective.dtype, device=self._objective.device)
        for graph in self._graphs:
            self._add(self.gradient, graph.slopes)
        self.gradient /= self._weight
        self.operator = Operator(layout.size, self._objective.device, self._objective.dtype, self._multiply)

    def along_gradient(self) -> tuple[float, float]:
        """gᵀHg and gᵀg."""
        product = self.operator.matmat(self.gradient[None])[0]
        slope = self.gradient.double()
        return float(slope @ product.double()), float(slope @ slope)

    def lambda_max(self, tolerance: float) -> Eigenvalue | None:
        """The largest eigenvalue of the Hessian; None where a product is not finite."""
        wanted = largest_alone(tolerance)
        found = extremes(self.operator, starting_vector(self.gradient, self.operator), wanted)
        return found.top[0] if found.top else None

    def _multiply(self, vectors: torch.Tensor) -> torch.Tensor:
        products = torch.zeros_like(vectors)
        with self._objective.prepared(), _differentiated_twice():
            for row, product in zip(vectors, products, strict=True):
                for graph in self._graphs:
                    tangents = list(self._objective.layout.views(row))
                    self._add(product, graph.product(tangents, self._all))
        return products.div_(self._weight)

    def _add(self, total: torch.Tensor, slopes: Sequence[torch.Tensor | None]) -> None:
        for part, slope in zip(self._objective.layout.views(total), slopes, strict=True):
            if slope is not None:
                part.add_(slope.detach())


@contextlib.contextmanager
def _differentiated_twice() -> Iterator[None]:
    """Raises Unavailable, naming the operation, for what torch cannot differentiate."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise Unavailable(f"the network cannot be differentiated twice: {operation_in(error)}") from None


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
