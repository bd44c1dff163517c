"""Symmetric matrices with spectra made to measure, as operators in float32."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class Dense:
    """A matrix given whole; rows of `vectors` are multiplied."""

    def __init__(self, matrix: NDArray[np.float64], dtype: torch.dtype = torch.float32) -> None:
        self.exact = matrix
        self.size = len(matrix)
        self.device = torch.device("cpu")
        self.dtype = dtype
        self.products = 0
        self.cancelled = 0.0
        self._matrix = torch.as_tensor(matrix).to(dtype)

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        self.products += len(vectors)
        return vectors @ self._matrix.T

    def poison(self, value: float) -> None:
        """Make one entry something that is no number."""
        self._matrix[0, 0] = value


def with_eigenvalues(values: Sequence[float] | NDArray[np.float64], seed: int = 0) -> Dense:
    """A matrix with these eigenvalues, in a random orthonormal basis."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((len(values), len(values))))[0]
    matrix = (basis * np.asarray(values, dtype=np.float64)) @ basis.T
    return Dense((matrix + matrix.T) / 2)


def like_a_network(seed: int, size: int = 600) -> NDArray[np.float64]:
    """A few outliers, a bulk that falls by powers and is mostly almost 0, and some curvature downwards."""
    generator = np.random.default_rng(seed)
    outliers = np.sort(generator.uniform(1.0, 30.0, generator.integers(3, 13)))
    bulk = generator.pareto(generator.uniform(0.5, 2.0), size) * 1e-2
    values = np.where(generator.random(size) < 0.1, -0.3 * bulk, bulk).clip(-2.0, 0.9)
    values[: len(outliers)] = outliers
    return values
