"""The pass `magnitudes`: sums and extremes of every parameter, row by row, from one reading of the file."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sounding.contract import shared_pass
from sounding.numbers import CHUNK, row_squares
from sounding.passes.weights import Weights

Floats = NDArray[np.float64]
Block: TypeAlias = torch.Tensor | NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Magnitude:
    """What one reading of a tensor tells. A row is what belongs to one output: a slice along the first dimension."""

    shape: tuple[int, ...]
    rows: Floats  # sum of squares of every row; of a vector or scalar, one row
    low: float
    high: float
    zeros: int
    nans: int
    infinities: int

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def squares(self) -> float:
        """Sum of squares of all elements."""
        return float(self.rows.sum())

    @property
    def norm(self) -> float:
        """Frobenius norm."""
        return math.sqrt(self.squares)

    @property
    def max_abs(self) -> float:
        """Largest absolute value; NaN where there is one."""
        return float(np.maximum(abs(self.low), abs(self.high)))

    @property
    def dead_rows(self) -> int:
        """Rows whose norm is below 1e-6 of the median row's, and all rows where the median is zero too."""
        return int(np.count_nonzero(self.rows <= 1e-12 * np.median(self.rows)))

    def slice_norms(self, slices: int) -> Floats:
        """Norms of equal runs of rows, e.g. of attention heads. Raises ValueError where rows cannot be dealt out so."""
        return np.asarray(np.sqrt(self.rows.reshape(slices, -1).sum(axis=1)))


class Magnitudes(Mapping[str, Magnitude]):
    """Magnitudes of the trained parameters by name, tied ones once."""

    def __init__(self, found: Mapping[str, Magnitude]) -> None:
        self._found = dict(found)

    def __getitem__(self, name: str) -> Magnitude:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def norm(self) -> float:
        """Norm of all parameters taken as one vector."""
        return math.sqrt(sum(each.squares for each in self.values()))

    @property
    def count(self) -> int:
        """Elements of all parameters."""
        return sum(each.count for each in self.values())


@shared_pass(version=1)
def magnitudes(weights: Weights) -> Magnitudes:
    """Sums of squares to 1e-7 whatever the size, extremes and counts."""
    return Magnitudes({name: magnitude_of(tensor) for name, tensor in weights.parameters().items()})


@np.errstate(over="ignore", invalid="ignore")
def magnitude_of(tensor: torch.Tensor) -> Magnitude:
    """One tensor's, a block of rows at a time; an empty tensor has extremes of 0."""
    shape = tuple(tensor.shape)
    matrix = (
        tensor.detach().reshape(shape[0] if len(shape) > 1 else 1, -1) if tensor.numel() else tensor.new_zeros(0, 0)
    )
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    sums: list[Floats] = [np.zeros(0)]
    low, high = math.inf, -math.inf
    zeros = nans = infinities = 0
    for block in _blocks(matrix.numpy() if matrix.dtype == wide else matrix):
        values = block.to(wide).numpy() if isinstance(block, torch.Tensor) else block
        sums.append(row_squares(values))
        least, greatest = float(values.min()), float(values.max())
        low, high = least if not least >= low else low, greatest if not greatest <= high else high  # NaN wins
        zeros += values.size - int(np.count_nonzero(values != 0))
        if not math.isfinite(least) or not math.isfinite(greatest):
            nans += int(np.count_nonzero(np.isnan(values)))
            infinities += int(np.count_nonzero(np.isinf(values)))
    rows = np.concatenate(sums)
    if len(rows) != len(matrix):  # rows longer than a block came in parts
        rows = rows.reshape(len(matrix), -1).sum(axis=1)
    return Magnitude(shape, rows, *((low, high) if tensor.numel() else (0.0, 0.0)), zeros, nans, infinities)


def _blocks(matrix: Block) -> Iterator[Block]:
    """Whole rows that fill a core's cache, or, of a row that is longer, its parts one after the other."""
    width = matrix.shape[1]
    if width <= CHUNK:
        taken = max(1, CHUNK // max(1, width))
        yield from (matrix[start : start + taken] for start in range(0, matrix.shape[0], taken))
    else:
        yield from (
            matrix[row : row + 1, start : start + CHUNK]
            for row in range(matrix.shape[0])
            for start in range(0, width, CHUNK)
        )
