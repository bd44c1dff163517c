"""Orthonormal vectors of the length of all parameters: kept in blocks of memory, worked on without copies."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROWS = 32  # a block's vectors: memory of a CPU that was not written to yet is not taken
COLUMNS = 1 << 14  # a piece's columns: 32 vectors of it stay in a core's cache while they are read twice
_SPAN = 1 << 18  # elements of a scalar product in the vectors' own type; spans are added up in float64


class Basis:
    """Rows of equal length `size`, added one at a time; `dtype` is that of the vectors, small matrices are float64.

    Memory is taken for `most` rows at a time at the most, and again when there are more.
    """

    def __init__(self, size: int, device: torch.device, dtype: torch.dtype, most: int = ROWS) -> None:
        self._rows = min(ROWS, most)
        self.size = size
        self._device = device
        self._dtype = dtype
        self._blocks: list[torch.Tensor] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        place = range(self._count)[index]
        row: torch.Tensor = self._blocks[place // self._rows][place % self._rows]
        return row

    def append(self, vector: torch.Tensor) -> None:
        """Add a row; the vector is copied."""
        if self._count == self._rows * len(self._blocks):
            rows = min(self._rows, self.size)
            self._blocks.append(torch.empty(rows, self.size, dtype=self._dtype, device=self._device))
        self._count += 1
        self[-1].copy_(vector)

    def coefficients(self, vector: torch.Tensor) -> Floats:
        """The scalar product of every row with `vector`."""
        found = [block @ vector for block in self._filled()]
        return array_of(torch.cat(found)) if found else np.zeros(0)

    def remove(self, vector: torch.Tensor, coefficients: Floats) -> None:
        """Subtract the rows' combination from `vector`, in place."""
        start = 0
        for block in self._filled():
            part = torch.as_tensor(coefficients[start : start + len(block)], dtype=self._dtype, device=self._device)
            vector.addmv_(block.T, part, alpha=-1.0)
            start += len(block)

    def combined(self, rotation: Floats) -> torch.Tensor:
        """The rows that a matrix [len(self), k] makes of these: [k, size]."""
        whole = torch.empty(rotation.shape[1], self.size, dtype=self._dtype, device=self._device)
        turned = torch.as_tensor(rotation.T.copy(), dtype=self._dtype, device=self._device)
        for left in range(0, self.size, COLUMNS):
            torch.matmul(turned, self._columns(left), out=whole[:, left : left + COLUMNS])
        return whole

    def compress(self, rotation: Floats) -> None:
        """Replace the rows by their combinations, of which there are fewer; in place, a piece of columns at a time."""
        turned = torch.as_tensor(rotation.T.copy(), dtype=self._dtype, device=self._device)
        for left in range(0, self.size, COLUMNS):
            for place, row in enumerate(turned @ self._columns(left)):
                self[place][left : left + COLUMNS].copy_(row)
        self._count = rotation.shape[1]

    def _columns(self, left: int) -> torch.Tensor:
        return torch.cat([block[:, left : left + COLUMNS] for block in self._filled()])

    def _filled(self) -> Iterator[torch.Tensor]:
        for place, block in enumerate(self._blocks):
            rows = min(self._rows, self._count - place * self._rows)
            if rows > 0:
                yield block[:rows]


def dot(one: torch.Tensor, other: torch.Tensor) -> float:
    """Scalar product, spans of it in the vectors' type, added up in float64: right to 1e-7 of Σ|xy| at any length."""
    spans = (slice(start, start + _SPAN) for start in range(0, len(one), _SPAN))
    return float(torch.stack([torch.dot(one[span], other[span]) for span in spans]).double().sum())


def length(vector: torch.Tensor) -> float:
    """Euclidean norm."""
    return float(np.sqrt(dot(vector, vector)))


def array_of(tensor: torch.Tensor) -> Floats:
    """A small tensor in float64, on the CPU."""
    return np.asarray(tensor.double().cpu().numpy(), dtype=np.float64)
