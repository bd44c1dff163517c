"""How alike two representations of the same examples are: centred kernel alignment and Procrustes distance.

All of it is computed from d × d matrices, never from n × n ones. With K = XXᵀ, L = YYᵀ, tildes for zero diagonals and
n examples, the unbiased estimate of the Hilbert-Schmidt independence criterion (Song et al. 2012) is

    n(n-3)·HSIC₁ = tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((n-1)(n-2)) - 2/(n-2)·1ᵀK̃L̃1,

    tr K̃L̃ = ‖XᵀY‖² - Σ‖x‖²‖y‖²,   K̃1 = X(Xᵀ1) - ‖x‖² row by row.

It does not feel a shift of all rows; they are centred first, for the digits' sake.
"""

import math
from collections.abc import Iterator

import torch

from sounding.estimates import Estimate

FEWEST = 4  # examples
_GROUPS = 10  # of the jackknife


def debiased_cka(x: torch.Tensor, y: torch.Tensor) -> Estimate:
    """HSIC₁(X, Y) / √(HSIC₁(X, X)·HSIC₁(Y, Y)) of rows [n, d] and [n, e], with a grouped jackknife's error.

    About zero for unrelated representations of whatever width (and below it half of the time), at most about 1; NaN
    where a representation does not vary.
    """
    x, y = _centred(x), _centred(y)
    count = len(x)
    groups = min(_GROUPS, count // (FEWEST + 1))
    products = _Products(x, y)
    value = products.alignment()
    if groups < 2:
        return Estimate(value, math.nan)
    left_out = torch.tensor([products.without(rows).alignment() for rows in _parted(count, groups)]).double()
    spread = float(((left_out - left_out.mean()) ** 2).sum()) * (groups - 1) / groups
    return Estimate(value, math.sqrt(spread))


def biased_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """‖XᵀY‖²/(‖XᵀX‖·‖YᵀY‖), centred: towards 1 as widths near the number of examples, whatever they hold."""
    x, y = _centred(x), _centred(y)
    scale = _norm(x.T @ x) * _norm(y.T @ y)
    return _norm(x.T @ y) ** 2 / scale if scale else math.nan


def procrustes_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """The least over rotations R of ‖X - YR‖², both centred and of norm 1: 2 - 2‖XᵀY‖_*, from 0 to 2."""
    x, y = _centred(x), _centred(y)
    scale = _norm(x) * _norm(y)
    if not scale:
        return math.nan
    cross = x.T @ y if x.shape[1] <= y.shape[1] else y.T @ x
    squares = torch.linalg.eigvalsh(cross @ cross.T).clamp_min(0.0)
    return 2.0 - 2.0 * float(squares.sqrt().sum()) / scale


class _Products:
    """Sums over rows from which HSIC₁ of every pair of two representations follows."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, crosses: tuple[torch.Tensor, ...] | None = None) -> None:
        self._x, self._y = x, y
        self._crosses = crosses or (x.T @ x, x.T @ y, y.T @ y)

    def without(self, rows: torch.Tensor) -> "_Products":
        """The same without some rows."""
        x, y = self._x[rows], self._y[rows]
        kept = torch.ones(len(self._x), dtype=torch.bool, device=x.device)
        kept[rows] = False
        xx, xy, yy = self._crosses
        return _Products(self._x[kept], self._y[kept], (xx - x.T @ x, xy - x.T @ y, yy - y.T @ y))

    def alignment(self) -> float:
        xx, xy, yy = self._crosses
        own, other = self._hsic(self._x, self._x, xx), self._hsic(self._y, self._y, yy)
        if own <= 0.0 or other <= 0.0:
            return math.nan
        return self._hsic(self._x, self._y, xy) / math.sqrt(own * other)

    def _hsic(self, x: torch.Tensor, y: torch.Tensor, cross: torch.Tensor) -> float:
        """n(n-3)·HSIC₁; the factor cancels in an alignment."""
        count = len(x)
        lengths, widths = x.square().sum(1), y.square().sum(1)
        rows, columns = x @ x.sum(0) - lengths, y @ y.sum(0) - widths
        same = float(cross.square().sum()) - float(lengths @ widths)
        whole = float(rows.sum()) * float(columns.sum()) / ((count - 1) * (count - 2))
        return same + whole - 2.0 * float(rows @ columns) / (count - 2)


def _parted(count: int, groups: int) -> Iterator[torch.Tensor]:
    """Every `groups`-th row, from each start."""
    return (torch.arange(start, count, groups) for start in range(groups))


def _centred(rows: torch.Tensor) -> torch.Tensor:
    exact = rows.double()
    return exact - exact.mean(0)


def _norm(tensor: torch.Tensor) -> float:
    return float(tensor.square().sum().sqrt())
