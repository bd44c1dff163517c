"""Neural collapse from its formulas, in three passes over the features: what the fast way is compared with.

Means first, then deviations from them, then decisions against them; Σ_B is inverted as a d × d matrix. In float32 this
is how public implementations go about it, in float64 it is the truth for tests.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # goes through features [n, d] and labels [n] once


@dataclass
class Reference:
    """Moments of the features and what follows from them; every class has examples."""

    counts: Tensor
    means: Tensor
    variances: Tensor  # trace of each class's covariance
    within: Tensor  # Σ_W
    differing: float  # NC4

    @property
    def centred(self) -> Tensor:
        """Class means less their unweighted mean."""
        return self.means - self.means.mean(0)


def three_passes(batches: Batches, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Reference:
    classes, width = weight.shape
    weight, bias = weight.to(dtype), bias.to(dtype)
    counts = torch.zeros(classes, dtype=dtype)
    sums = torch.zeros(classes, width, dtype=dtype)
    for rows, labels in batches():
        members = torch.nn.functional.one_hot(labels, classes).to(dtype)
        counts += members.sum(0)
        sums += members.T @ rows.to(dtype)
    means = sums / counts[:, None]

    within = torch.zeros(width, width, dtype=dtype)
    squares = torch.zeros(classes, dtype=dtype)
    for rows, labels in batches():
        deviations = rows.to(dtype) - means[labels]
        within += deviations.T @ deviations
        squares.index_add_(0, labels, deviations.square().sum(1))

    differing = 0
    for rows, _ in batches():
        distances = torch.cdist(rows.to(dtype), means)
        differing += int((distances.argmin(1) != (rows.to(dtype) @ weight.T + bias).argmax(1)).sum())
    examples = float(counts.sum())
    return Reference(counts, means, squares / counts, within / examples, differing / examples)


def figures(found: Reference, weight: Tensor, bias: Tensor) -> dict[str, float]:
    """The numbers, under the names of the plugin's metrics."""
    weight, bias, centred = weight.to(found.means.dtype), bias.to(found.means.dtype), found.centred
    classes = len(weight)
    between = centred.T @ centred / classes
    return {
        "nc1_pinv": float((found.within @ torch.linalg.pinv(between)).trace()) / classes,
        "nc1_quotient": float(found.within.trace() / between.trace()),
        "cdnv": cdnv(found.means, found.variances),
        "nc2_norm_means": variation(centred),
        "nc2_norm_head": variation(weight),
        "nc2_angle_means": angles(centred),
        "nc2_angle_head": angles(weight),
        "nc2_etf_error_means": etf_error(centred @ centred.T),
        "nc2_etf_error_head": etf_error(weight @ weight.T),
        "nc3_self_duality": float((weight / weight.norm() - centred / centred.norm()).norm()),
        "nc3_etf_error": etf_error(weight @ centred.T),
        "nc3_bias": float((weight @ found.means.mean(0) + bias).norm()),
        "nc4_disagreement": found.differing,
    }


def cdnv(means: Tensor, variances: Tensor) -> float:
    """The mean over pairs of (v + v')/(2·distance²)."""
    distances = torch.cdist(means, means) ** 2
    pairs = (variances[:, None] + variances) / (2 * distances)
    return float(pairs[~torch.eye(len(means), dtype=torch.bool)].mean())


def variation(rows: Tensor) -> float:
    norms = rows.norm(dim=1)
    return float(norms.std(correction=0) / norms.mean())


def angles(rows: Tensor) -> float:
    units = rows / rows.norm(dim=1, keepdim=True)
    cosines = (units @ units.T)[~torch.eye(len(rows), dtype=torch.bool)]
    return float((cosines + 1 / (len(rows) - 1)).abs().mean())


def etf_error(products: Tensor) -> float:
    classes = len(products)
    ideal = (torch.eye(classes, dtype=products.dtype) - 1 / classes) / math.sqrt(classes - 1)
    return float((products / products.norm() - ideal).norm())


def fuzziness(found: Reference) -> float:
    """He and Su: shares as weights, the sample mean as centre, not divided by the number of classes."""
    shares = found.counts / found.counts.sum()
    rows = shares.sqrt()[:, None] * (found.means - shares @ found.means)
    return float((found.within @ torch.linalg.pinv(rows.T @ rows)).trace())
