"""Measures of neural collapse: functions of class moments and of the classifier's weights."""

import math
from typing import NamedTuple

import torch

from sounding.geometry.moments import ClassMoments
from sounding.geometry.scatter import Scatter

_PAIR_ROWS = 1024  # rows of a table of pairs that are made at once


class Spread(NamedTuple):
    """Mean and variance over pairs or classes."""

    mean: float
    variance: float


def nc1_pinv(moments: ClassMoments) -> float:
    """tr(Σ_W Σ_B†)/C with Σ_B = (1/C) Σ_c (μ_c - μ_G)(μ_c - μ_G)ᵀ, μ_G the unweighted mean of the class means."""
    return scatter_ratio(moments.within, moments.centred)


def nc1_quotient(moments: ClassMoments) -> float:
    """The quotient of traces, tr Σ_W / tr Σ_B."""
    between = float(moments.centred.square().sum()) / len(moments.means)
    return moments.within_trace / between if between > 0 else math.nan


def fuzziness(moments: ClassMoments) -> float:
    """tr(S_W S_B†) with S_B weighted by the classes' shares and taken about the sample mean (He and Su 2022)."""
    return scatter_ratio(moments.within, moments.between_rows())


def scatter_ratio(within: Scatter, rows: torch.Tensor) -> float:
    """tr(Σ (RᵀR)†) for the rows R [C, d] of a between-class scatter; NaN where R is zero.

    By the eigenvectors of the smaller of RRᵀ and RᵀR; what rounding leaves of a zero eigenvalue is left out, so at
    most C - 1 directions count.
    """
    directions, squares = principal(rows)
    return float((within.along(directions) / squares).sum()) if len(squares) else math.nan


def principal(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Right singular vectors [d, k] of centred rows [C, d], and the squares of their singular values [k]."""
    count, width = rows.shape
    if count <= width:
        squares, left = torch.linalg.eigh(rows @ rows.T)
    else:
        squares, left = torch.linalg.eigh(rows.T @ rows)
    kept = squares > squares[-1].clamp_min(0) * max(count, width) * torch.finfo(torch.float64).eps
    kept[: max(0, len(squares) - (count - 1))] = False
    squares, left = squares[kept], left[:, kept]
    return (rows.T @ left / squares.sqrt() if count <= width else left), squares


def cdnv(moments: ClassMoments) -> float:
    """Class-distance normalised variance: the mean over pairs of (v_c + v_c')/(2 ‖μ_c - μ_c'‖²), v_c = tr Σ_c."""
    centred, variances = moments.centred, moments.variances
    total, count = 0.0, len(centred)
    for start in range(0, count, _PAIR_ROWS):
        rows = slice(start, start + _PAIR_ROWS)
        ratios = (variances[rows, None] + variances) / (2 * _squared_distances(centred[rows], centred))
        own = torch.arange(start, min(start + _PAIR_ROWS, count), device=ratios.device)
        ratios[own - start, own] = 0.0
        total += float(ratios.sum())
    return total / (count * (count - 1)) if count > 1 else math.nan


def norm_variation(rows: torch.Tensor) -> float:
    """Standard deviation of the rows' norms over their mean."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    return float(norms.std(correction=0) / norms.mean())


def angle_deviation(rows: torch.Tensor) -> float:
    """Mean over pairs of |cos + 1/(C - 1)|, which vanishes where all angles are those of a simplex."""
    count = len(rows)
    if count < 2:
        return math.nan
    units = torch.nn.functional.normalize(rows, dim=1)
    total = 0.0
    for block in torch.split(units, _PAIR_ROWS):
        total += float((block @ units.T + 1 / (count - 1)).abs().sum())
    own = float((units.square().sum(1) + 1 / (count - 1)).abs().sum())
    return (total - own) / (count * (count - 1))


def etf_error(products: torch.Tensor) -> float:
    """‖G/‖G‖_F - (I - 11ᵀ/C)/√(C-1)‖_F of inner products G [C, C]: 0 for a simplex ETF, at most 2."""
    count = len(products)
    if count < 2:
        return math.nan
    ideal = (torch.eye(count, dtype=products.dtype, device=products.device) - 1 / count) / math.sqrt(count - 1)
    return float((products / torch.linalg.vector_norm(products) - ideal).norm())


def self_duality(weights: torch.Tensor, centred: torch.Tensor) -> float:
    """‖W/‖W‖_F - M̃/‖M̃‖_F‖_F of classifier rows and centred class means, both [C, d]."""
    return float((weights / torch.linalg.vector_norm(weights) - centred / torch.linalg.vector_norm(centred)).norm())


def bias_collapse(weights: torch.Tensor, bias: torch.Tensor | None, moments: ClassMoments) -> float:
    """‖Wμ_G + b‖: a collapsed classifier answers nothing at the mean of the class means."""
    answer = weights @ moments.means.mean(0)
    return float((answer if bias is None else answer + bias).norm())


def log_distances(centred: torch.Tensor) -> Spread:
    """Of log(1/‖m_c - m_c'‖) over pairs of normalised centred means (GNC2); variance 0 where they are spread evenly."""
    units = torch.nn.functional.normalize(centred, dim=1)
    count = len(units)
    if count < 2:
        return Spread(math.nan, math.nan)
    mean = square = 0.0
    for start in range(0, count, _PAIR_ROWS):
        logs = -0.5 * _squared_distances(units[start : start + _PAIR_ROWS], units).log()
        own = torch.arange(start, min(start + _PAIR_ROWS, count), device=logs.device)
        logs[own - start, own] = 0.0
        mean += float(logs.sum())
        square += float(logs.square().sum())
    pairs = count * (count - 1)
    return Spread(mean / pairs, max(0.0, square / pairs - (mean / pairs) ** 2))


def alignment(weights: torch.Tensor, centred: torch.Tensor) -> Spread:
    """Of cos(w_c, μ_c - μ_G) over classes (UNC3): variance 0 where all classes are aligned equally."""
    cosines = torch.nn.functional.cosine_similarity(weights, centred, dim=1)
    return Spread(float(cosines.mean()), float(cosines.var(correction=0)))


def _squared_distances(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    lengths, across = rows.square().sum(1), others.square().sum(1)
    return torch.addmm(lengths[:, None] + across, rows, others.T, alpha=-2).clamp_min(0)
