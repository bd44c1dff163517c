"""What random vectors tell of a symmetric operator beside the space in which its extreme eigenvalues were found.

All that lies in that space is known and adds nothing to the variance: the trace and the Frobenius norm need probes for
the rest alone, and in the spectral density its eigenvalues are atoms of weight 1/size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sounding.curvature.basis import Basis, Floats, dot
from sounding.curvature.eigenvalues import Extremes, Wanted
from sounding.curvature.krylov import extremes
from sounding.curvature.operator import LinearOperator
from sounding.estimates import Estimate, mean_of

_AT_ONCE = 1 << 22  # elements of the probes multiplied together
_CHANCE = 20.0  # times 1/size: what the weight of a simple eigenvalue stays below, but for one start in 100,000
_SAME = 1e-4  # of the largest magnitude: nodes nearer than this to a known eigenvalue are that one


@dataclass(frozen=True, slots=True)
class Traces:
    """tr A and the Frobenius norm, over `probes` random vectors."""

    trace: Estimate
    frobenius: Estimate
    probes: int


@dataclass(frozen=True, eq=False)
class Density:
    """The spectrum as nodes (ascending) of which each stands for a share of all eigenvalues; the shares' sum is 1.

    `plain` are the quadratures that it is made of, each as Gauss's rule for one random vector gives it.
    """

    nodes: Floats
    weights: Floats
    depth: int
    plain: tuple[tuple[Floats, Floats], ...]


@dataclass(frozen=True, slots=True)
class Criteria:
    """Böttcher and Wheeler's ratio and that of LLA, means over quadratures; they depend on the quadratures' depth."""

    re: float | None  # |smallest node / largest node|; None where nothing is above 0
    kh: float | None  # of the negative nodes over the positive ones, sums of |node x weight|^n
    mostly_negative: bool  # more of the sum of |node x weight| lies below 0 than above: neither applies there


def traces(operator: LinearOperator, found: Extremes, probes: int = 20, seed: int = 0) -> Traces:
    """Trace and Frobenius norm: exact in the space of `found`, Hutchinson's estimate across it from 2 probes or more.

    Where nothing lies across, all probes agree; what rounding makes of the sum is the least standard error.
    """
    inside, squares = float(np.trace(found.projected)), float((found.projected**2).sum()) + found.next_norm**2
    rest = [_across(operator, found.basis, rows) for rows in _signs(operator, probes, seed)]
    trace = _mean([alpha for alphas, _ in rest for alpha in alphas], inside)
    square = _mean([each for _, lengths in rest for each in lengths], squares)
    norm = math.sqrt(square.value)
    frobenius = Estimate(norm, square.stderr / (2 * norm) if norm else 0.0)
    magnitudes = float(np.abs(np.linalg.eigvalsh(found.projected)).sum()) + abs(trace.value - inside)
    return Traces(_rounded(trace, magnitudes, found), _rounded(frobenius, norm, found), probes)


def density(operator: LinearOperator, found: Extremes, depth: int = 40, probes: int = 1, seed: int = 1) -> Density:
    """Stochastic Lanczos quadrature; eigenvalues of `found` that a quadrature resolves are given their weight, 1/size.

    Gauss's rule gives a simple eigenvalue the square of the random vector's part along it, which is right on average
    alone. What has more weight than chance allows is multiple, and stays as it is.
    """
    # Each start is one more probe of the trace, at no cost; but the trace would then depend on who asks for a density.
    plain = [_quadrature(operator, rows[0], depth) for rows in _signs(operator, probes, seed, most=1)]
    corrected = [_with_atoms(*each, found, operator.size) for each in plain]
    nodes = np.concatenate([nodes for nodes, _ in corrected])
    weights = np.concatenate([weights for _, weights in corrected]) / len(plain)
    order = np.argsort(nodes, kind="stable")
    return Density(nodes[order], weights[order], depth, tuple(plain))


def criteria(found: Density, power: float = 0.5) -> Criteria:
    """`re` and `Kh_n` of the plain quadratures."""
    ratios: list[float] = []
    heights: list[float] = []
    below = above = 0.0
    for nodes, weights in found.plain:
        mass = np.abs(nodes * weights)
        low, high = mass[nodes < 0], mass[nodes > 0]
        below, above = below + float(low.sum()), above + float(high.sum())
        if len(high):
            ratios.append(abs(float(nodes[0] / nodes[-1])))
            heights.append(float((low**power).sum() / (high**power).sum()))
    if not heights:
        return Criteria(None, None, below > above)
    return Criteria(float(np.mean(ratios)), float(np.mean(heights)), below > above)


def _across(operator: LinearOperator, basis: Basis, rows: torch.Tensor) -> tuple[list[float], list[float]]:
    """yᵀAy and ‖Ay‖² of every row with the basis taken out."""
    for row in rows:
        basis.remove(row, basis.coefficients(row))
    images = operator.matmat(rows)
    return [dot(*pair) for pair in zip(rows, images, strict=True)], [dot(each, each) for each in images]


def _signs(operator: LinearOperator, count: int, seed: int, most: int = _AT_ONCE) -> Iterator[torch.Tensor]:
    """Rows of independent signs, as many at a time as have `most` elements, one at least."""
    generator = torch.Generator().manual_seed(seed)
    step = max(1, most // operator.size)
    for start in range(0, count, step):
        drawn = torch.randint(0, 2, (min(step, count - start), operator.size), generator=generator, dtype=torch.int8)
        yield drawn.to(operator.device, operator.dtype).mul_(2).sub_(1)


def _mean(samples: Sequence[float], offset: float) -> Estimate:
    mean = mean_of(samples)
    return Estimate(offset + mean.value, mean.stderr)


def _rounded(estimate: Estimate, magnitude: float, found: Extremes) -> Estimate:
    """With what rounding adds to the standard error of a sum of terms of this magnitude in all."""
    share = max(1.0, magnitude / found.scale) if found.scale else 1.0
    return Estimate(estimate.value, math.hypot(estimate.stderr, share * found.rounding))


def _quadrature(operator: LinearOperator, start: torch.Tensor, depth: int) -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss's rule for the start vector's spectral measure."""
    found = extremes(operator, start, Wanted(1, 1, most_products=depth, most_vectors=depth + 1, steady=depth + 1))
    nodes, vectors = np.linalg.eigh(found.projected)
    weights = vectors[0] ** 2
    reached = weights > 0.0  # what was found in another Krylov space, after the first was exhausted, has none
    return nodes[reached], weights[reached]


def _with_atoms(nodes: Floats, weights: Floats, found: Extremes, size: int) -> tuple[Floats, Floats]:
    """The quadrature with the weight of every simple eigenvalue that is known set right, at the others' cost."""
    simple = np.zeros(len(nodes), dtype=bool)
    nodes, weights = nodes.copy(), weights.copy()
    for known in {each.value: each for each in (*found.top, *found.bottom) if each.converged}.values():
        place = int(np.abs(nodes - known.value).argmin())
        near = abs(nodes[place] - known.value) <= max(known.error, _SAME * found.scale)
        if near and not simple[place] and weights[place] * size <= _CHANCE:
            simple[place] = True
            nodes[place], weights[place] = known.value, 1.0 / size
    rest = float(weights[~simple].sum())
    if rest > 0.0:
        weights[~simple] *= (1.0 - simple.sum() / size) / rest
    return nodes, weights
