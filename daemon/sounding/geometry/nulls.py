"""What measures of collapse come to without any: labels that mean nothing, and too few dimensions for a simplex."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch

from sounding.geometry import collapse
from sounding.geometry.class_sums import summed_by_class
from sounding.geometry.collapse import principal
from sounding.geometry.moments import ClassMoments
from sounding.geometry.scatter import RowScatter


class Chance(NamedTuple):
    """What the measures of collapse of the same names come to when labels are dealt out anew."""

    nc1_pinv: float
    nc1_quotient: float
    cdnv: float
    nc2_norm_means: float
    nc2_angle_means: float
    nc2_etf_error_means: float


def of_permuted_labels(moments: ClassMoments, draws: int = 3, seed: int = 0) -> list[Chance]:
    """Measures of collapse after the labels were dealt out anew, `draws` times.

    `nc1_pinv` is about n(C - 1)/d for white features of n examples a class. Where the rows are still there the labels
    are permuted; else class means are drawn from the normal law with the two first moments that a permutation gives
    them, which needs the covariance of the features alone.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(moments.within, RowScatter):
        centred = (moments.means - moments.sample_mean).to(moments.within.deviations.dtype)
        rows = moments.within.deviations + centred.index_select(0, moments.within.places)
        return [_permuted(moments, rows, generator) for _ in range(draws)]
    total = moments.total()
    if len(moments.means) - 1 < len(total):
        return [_along_few(moments, total, generator) for _ in range(draws)]
    values = torch.linalg.eigvalsh(total)
    return [_along_all(moments, values, generator) for _ in range(draws)]


def nc1_of_permuted_labels(moments: ClassMoments, draws: int = 3, seed: int = 0) -> tuple[float, ...]:
    """NC1 (as `nc1_pinv`) of permuted labels, ascending."""
    return tuple(sorted(each.nc1_pinv for each in of_permuted_labels(moments, draws, seed)))


def etf_floor(classes: int, width: int) -> float:
    """The least ETF error that C vectors in d dimensions can have: √(2 - 2√(d/(C - 1))) for d < C - 1, else 0."""
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt(min(1.0, width / (classes - 1)))))


def _permuted(moments: ClassMoments, rows: torch.Tensor, generator: torch.Generator) -> Chance:
    within = moments.within
    assert isinstance(within, RowScatter)
    places = within.places[torch.randperm(len(rows), generator=generator).to(rows.device)]
    counts = moments.counts
    means = summed_by_class(rows, places, len(counts)) / counts[:, None]
    lengths = torch.linalg.vector_norm(rows, dim=1).double().square()
    variances = torch.zeros_like(counts).index_add_(0, places, lengths) / counts - means.square().sum(1)
    directions, squares = principal(means - means.mean(0))
    projected = (rows @ directions.to(rows.dtype)).double()
    inside = projected.square().sum(0) - counts @ (means @ directions).square()
    nc1 = float((inside / len(rows) / squares).sum()) if len(squares) else math.nan
    return _chance(moments, nc1, means, variances)


def _chance(moments: ClassMoments, nc1: float, means: torch.Tensor, variances: torch.Tensor) -> Chance:
    """Of class means, in whatever coordinates, and the classes' variances."""
    dealt = replace(moments, means=means, variances=variances)
    centred = dealt.centred
    return Chance(
        nc1,
        collapse.nc1_quotient(dealt),
        collapse.cdnv(dealt),
        collapse.norm_variation(centred),
        collapse.angle_deviation(centred),
        collapse.etf_error(centred @ centred.T),
    )


def _noise(moments: ClassMoments, generator: torch.Generator) -> torch.Tensor:
    """X [C, d]: XΣ^{1/2} are means of random subsets about the mean of all.

    n_c of N rows have covariance (1/n_c - 1/N)·NΣ/(N-1), and -Σ/(N-1) between subsets.
    """
    examples = float(moments.counts.sum())
    noise = torch.randn(moments.means.shape, dtype=torch.float64, generator=generator).to(moments.means.device)
    noise *= math.sqrt(examples / (examples - 1)) / moments.counts.sqrt()[:, None]
    return noise - moments.counts @ noise / examples  # the mean of all features stays where it is


def _along_few(moments: ClassMoments, total: torch.Tensor, generator: torch.Generator) -> Chance:
    """For class means XΣ^{1/2}: of MMᵀ = XΣXᵀ and MΣMᵀ = XΣ²Xᵀ, so no root of Σ is taken."""
    noise = _noise(moments, generator)
    wide = noise @ total
    image = wide - wide.mean(0)
    squares, left = torch.linalg.eigh(image @ (noise - noise.mean(0)).T)
    means = left * squares.clamp_min(0).sqrt()  # the centred ones in as many coordinates as there are classes
    variances = total.trace() - torch.linalg.vecdot(wide, noise)
    kept = squares > squares[-1].clamp_min(0) * 1e-9
    kept[0] = False
    squares, along = squares[kept], left[:, kept].T @ image
    weighted = (moments.counts / moments.counts.sum()).sqrt()[:, None] * noise
    within = along.square().sum(1) - (along @ weighted.T).square().sum(1)  # of M_w v, up to 1/s
    return _chance(moments, float((within / squares**2).sum()), means, variances)


def _along_all(moments: ClassMoments, values: torch.Tensor, generator: torch.Generator) -> Chance:
    """For means that fill all dimensions Σ drops out: tr((I - X_wᵀX_w)(X̃ᵀX̃)⁻¹) in as many dimensions as Σ has."""
    rank = int((values > values[-1] * 1e-7).sum())
    noise = _noise(moments, generator)[:, :rank]
    means = noise * values[len(values) - rank :].sqrt()
    centred = noise - noise.mean(0)
    weighted = (moments.counts / moments.counts.sum()).sqrt()[:, None] * noise
    rest = torch.eye(rank, dtype=torch.float64, device=noise.device) - weighted.T @ weighted
    nc1 = float(torch.linalg.solve(centred.T @ centred, rest).trace())
    return _chance(moments, nc1, means, values.sum() - means.square().sum(1))
