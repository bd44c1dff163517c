"""How many dimensions features fill: effective ranks, units that are dead or double, ranks along a sequence."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ranks:
    """Of a covariance with eigenvalues λ = σ², descending."""

    effective: float  # exp of the entropy of σ/Σσ (Roy and Vetterli 2007)
    participation: float  # (Σλ)²/Σλ²
    stable: float  # Σλ/λ_max


def ranks_of(eigenvalues: torch.Tensor, noise: float = 0.0) -> Ranks | None:
    """Ranks of a covariance; None where it is zero. Eigenvalues up to `noise` times the largest count as zero."""
    values = eigenvalues.double()
    largest = float(values.max()) if values.numel() else 0.0
    if largest <= 0.0 or not math.isfinite(largest):
        return None
    values = values / largest
    values = torch.where(values > noise, values, 0.0)
    total = float(values.sum())
    return Ranks(float(effective_rank(values)), total**2 / float(values.square().sum()), total)


def effective_rank(eigenvalues: torch.Tensor) -> torch.Tensor:
    """The exponential of the entropy of normalised singular values √λ, over the last dimension; NaN where all are 0."""
    sizes = eigenvalues.clamp_min(0).sqrt()
    shares = sizes / sizes.sum(-1, keepdim=True)
    entropy: torch.Tensor = torch.special.entr(shares).sum(-1)
    return entropy.exp()


@dataclass(frozen=True)
class Units:
    """Single units of a layer."""

    dead: int  # constant over all examples
    duplicate: int  # equal to an earlier living unit, up to scale, sign and offset


def units_of(covariance: torch.Tensor, threshold: float, floor: float) -> Units:
    """Dead units have variance at most `floor` of the largest; duplicates correlate beyond `threshold` in size."""
    variances = covariance.diagonal()
    alive = variances > floor * variances.max()
    scale = variances[alive].rsqrt()
    correlations = (covariance[alive][:, alive] * scale * scale[:, None]).abs().triu(1)
    double = (correlations >= threshold).any(0)
    return Units(int((~alive).sum()), int(double.sum()))


def prefix_ranks(states: torch.Tensor, stride: int) -> tuple[list[int], torch.Tensor]:
    """Effective rank of the centred first t rows of `states` [n, T, d], for t = stride, 2·stride, …; float64 [n, k].

    From one Gram matrix a sequence, whose leading part belongs to the prefix, and from running d × d sums once a
    prefix is longer than d: no decomposition of the rows themselves.
    """
    count, length, width = states.shape
    ends = [end for end in range(stride, length + 1, stride) if end > 1]
    wide = states.double()
    gram = wide[:, : min(length, width)] @ wide[:, : min(length, width)].transpose(1, 2)
    outer = wide.new_zeros(count, width, width)
    done = 0
    found = []
    for end in ends:
        if end <= width:
            centred = _centred_gram(gram[:, :end, :end])
        else:
            outer.baddbmm_(wide[:, done:end].transpose(1, 2), wide[:, done:end])
            done = end
            mean = wide[:, :end].mean(1)
            centred = outer - end * mean[:, :, None] * mean[:, None, :]
        found.append(effective_rank(torch.linalg.eigvalsh(centred)))
    return ends, torch.stack(found, dim=1) if found else wide.new_zeros(count, 0)


def _centred_gram(gram: torch.Tensor) -> torch.Tensor:
    rows = gram.mean(2, keepdim=True)
    return gram - rows - rows.transpose(1, 2) + gram.mean((1, 2), keepdim=True)


def velocity_and_acceleration(ranks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """ERV_t = ER_t - mean(ER_{<t}) from the second prefix on, ERA_t = ERV_t - ERV_{t-1} from the third; [n, k]."""
    before = ranks.cumsum(1) / torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    velocity = ranks[:, 1:] - before[:, :-1]
    return velocity, velocity.diff(dim=1)
