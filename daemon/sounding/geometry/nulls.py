"""What measures of collapse come to without any: labels that mean nothing, and too few dimensions for a simplex."""

import math

import torch

from sounding.geometry.class_sums import summed_by_class
from sounding.geometry.collapse import principal
from sounding.geometry.moments import ClassMoments
from sounding.geometry.scatter import RowScatter


def nc1_of_permuted_labels(moments: ClassMoments, draws: int = 3, seed: int = 0) -> tuple[float, ...]:
    """NC1 (as `nc1_pinv`) after the labels were dealt out anew, `draws` times, ascending.

    About n(C - 1)/d for white features of n examples a class. Where the rows are still there the labels are permuted;
    else class means are drawn from the normal law with the two first moments that a permutation gives them, which
    needs the covariance of the features alone.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(moments.within, RowScatter):
        centred = (moments.means - moments.sample_mean).to(moments.within.deviations.dtype)
        rows = moments.within.deviations + centred.index_select(0, moments.within.places)
        return tuple(sorted(_permuted(moments, rows, generator) for _ in range(draws)))
    total = moments.total()
    return tuple(sorted(_drawn(moments, total, generator) for _ in range(draws)))


def etf_floor(classes: int, width: int) -> float:
    """The least ETF error that C vectors in d dimensions can have: √(2 - 2√(d/(C - 1))) for d < C - 1, else 0."""
    return math.sqrt(max(0.0, 2 - 2 * math.sqrt(min(1.0, width / (classes - 1)))))


def _permuted(moments: ClassMoments, rows: torch.Tensor, generator: torch.Generator) -> float:
    within = moments.within
    assert isinstance(within, RowScatter)
    places = within.places[torch.randperm(len(rows), generator=generator).to(rows.device)]
    means = summed_by_class(rows, places, len(moments.counts)) / moments.counts[:, None]
    centred = means - means.mean(0)
    directions, squares = principal(centred)
    projected = (rows @ directions.to(rows.dtype)).double()
    inside = projected.square().sum(0) - moments.counts @ (means @ directions).square()
    return float((inside / len(rows) / squares).sum()) if len(squares) else math.nan


def _drawn(moments: ClassMoments, total: torch.Tensor, generator: torch.Generator) -> float:
    """Means of random subsets: n_c of N rows have covariance (1/n_c - 1/N)·NΣ/(N-1), and -Σ/(N-1) between subsets."""
    count, width = moments.means.shape
    examples = float(moments.counts.sum())
    noise = torch.randn(count, width, dtype=torch.float64, generator=generator).to(total.device)
    noise *= math.sqrt(examples / (examples - 1)) / moments.counts.sqrt()[:, None]
    noise -= moments.counts @ noise / examples  # the mean of all features stays where it is
    weighted = noise * (moments.counts / examples).sqrt()[:, None]
    centred = noise - noise.mean(0)
    if count - 1 < width:
        return _along_few(total, centred, weighted)
    return _along_all(total, centred, weighted)


def _along_few(total: torch.Tensor, centred: torch.Tensor, weighted: torch.Tensor) -> float:
    """For class means XΣ^{1/2}: of MMᵀ = XΣXᵀ and MΣMᵀ = XΣ²Xᵀ, so no root of Σ is taken."""
    image = centred @ total
    squares, left = torch.linalg.eigh(image @ centred.T)
    kept = squares > squares[-1].clamp_min(0) * 1e-9
    kept[0] = False
    squares, left = squares[kept], left[:, kept]
    along = left.T @ image
    means = along @ weighted.T  # M_w v, up to 1/s: weighted class means along every direction
    return float(((along.square().sum(1) - means.square().sum(1)) / squares**2).sum())


def _along_all(total: torch.Tensor, centred: torch.Tensor, weighted: torch.Tensor) -> float:
    """For means that fill all dimensions Σ drops out: tr((I - X_wᵀX_w)(X̃ᵀX̃)⁻¹) in as many dimensions as Σ has."""
    values = torch.linalg.eigvalsh(total)
    rank = int((values > values[-1] * 1e-7).sum())
    inner, outer = centred[:, :rank], weighted[:, :rank]
    rest = torch.eye(rank, dtype=torch.float64, device=total.device) - outer.T @ outer
    return float(torch.linalg.solve(inner.T @ inner, rest).trace())
