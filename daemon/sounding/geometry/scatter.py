"""The scatter of features within their classes, from the rows themselves or from sums over them."""

from dataclasses import dataclass
from typing import Protocol

import torch

BLOCK = 2048  # rows multiplied at once, in their own precision
_PANEL = 256  # columns of a product made at once; only its upper half is


class Scatter(Protocol):
    """The scatter within classes, Σ_W = (1/N) Σ (h - μ_y)(h - μ_y)ᵀ."""

    @property
    def noise(self) -> float:
        """Eigenvalues below this share of the largest may be rounding."""
        ...

    def along(self, directions: torch.Tensor) -> torch.Tensor:
        """vᵀΣ_W v, float64 [k], for every column v of `directions` [d, k]."""
        ...

    def matrix(self) -> torch.Tensor:
        """Σ_W itself, float64 [d, d]."""
        ...


@dataclass(frozen=True)
class RowScatter:
    """From the rows' deviations from their class means: for N not much above d cheaper than a matrix, and exact."""

    deviations: torch.Tensor  # [N, d]
    places: torch.Tensor  # [N], each row's class
    noise: float = 1e-14

    def along(self, directions: torch.Tensor) -> torch.Tensor:
        """By projecting every row's deviation."""
        projected = self.deviations @ directions.to(self.deviations.dtype)
        return projected.double().square().sum(0) / len(self.deviations)

    def matrix(self) -> torch.Tensor:
        """In float64 throughout."""
        width = self.deviations.shape[1]
        found = torch.zeros(width, width, dtype=torch.float64, device=self.deviations.device)
        for rows in torch.split(self.deviations, BLOCK):
            wide = rows.double()
            found.addmm_(wide.T, wide)
        return found / len(self.deviations)


@dataclass(frozen=True)
class SummedScatter:
    """From T and the sums: `scaled` is S_c/√n_c."""

    outer: torch.Tensor
    scaled: torch.Tensor
    examples: int
    noise: float

    def along(self, directions: torch.Tensor) -> torch.Tensor:
        """About the shifts, less what the means contribute."""
        whole = ((self.outer @ directions) * directions).sum(0)
        return (whole - (self.scaled @ directions).square().sum(0)) / self.examples

    def matrix(self) -> torch.Tensor:
        """About the shifts, less what the means contribute."""
        return torch.addmm(self.outer, self.scaled.T, self.scaled, alpha=-1) / self.examples


def add_upper(total: torch.Tensor, rows: torch.Tensor) -> None:
    """Add rowsᵀ·rows to the upper half of `total` in panels; what lies below the diagonal is not to be read."""
    width = rows.shape[1]
    for left in range(0, width, _PANEL):
        right = min(left + _PANEL, width)
        total[left:right, left:] += rows[:, left:right].T @ rows[:, left:]
