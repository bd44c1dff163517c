"""Spectra of weight matrices: eigenvalues by the Gram matrix, power laws in their tail, the bulk of a random matrix.

Everything is in float64 unless said otherwise, on the CPU; eigenvalues are those of WᵀW, squares of singular values.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

SMALL = 20  # eigenvalues; below this WeightWatcher fits in another way
_SHORTEST = 8  # its shortest tail there
_PROBES = 33  # places at which a distance is looked at before it is computed in full
_BLOCK = 128  # columns of a block of the Gram matrix: narrow ones compute less below the diagonal
_ROWS = 1 << 19  # elements converted at once: more makes no product faster
TRACY_WIDOM_99 = 2.0234  # 99 % quantile of the Tracy–Widom law of order 1 (Johnstone 2001, table 1)


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A density ∝ x^-alpha from `xmin` on, fitted by maximum likelihood (Clauset, Shalizi and Newman 2009)."""

    alpha: float
    stderr: float  # (alpha - 1) / sqrt(tail)
    xmin: float
    distance: float  # Kolmogorov–Smirnov, between the tail and the fit
    tail: int  # values from xmin on


@dataclass(frozen=True, slots=True)
class Bulk:
    """The random part of a spectrum: entries of variance `sigma`², its upper edge, and what lies beyond chance."""

    sigma: float
    edge: float  # upper edge of the Marchenko–Pastur law, as an eigenvalue
    spikes: int  # eigenvalues above the 99 % quantile of the largest one that noise alone would give
    strength: float  # singular value of the planted matrix of rank one that would show as the largest; 0 without


class Grams:
    """Eigenvalues of one matrix after the other, in memory taken once: room of ever other sizes would leave holes."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self._gram = torch.empty(0, dtype=dtype)
        self._block = torch.empty(0, dtype=dtype)

    def eigenvalues(self, matrix: torch.Tensor) -> Floats:
        """The min(m, n) eigenvalues of WᵀW (or WWᵀ, whichever is smaller), ascending, none below 0.

        Squaring halves the digits of the small ones: relative to the largest, values below about n·eps are noise.
        """
        tall = matrix.detach() if matrix.shape[0] >= matrix.shape[1] else matrix.detach().T
        columns = tall.shape[1]
        if self._gram.numel() < columns**2:
            self._gram = torch.empty(columns**2, dtype=self._gram.dtype)
        gram = self._gram[: columns**2].view(columns, columns).zero_()
        for block in self._blocks(tall):
            _add_upper(gram, block)
        return _array(torch.linalg.eigvalsh(gram, UPLO="U").clamp_min(0))

    def _blocks(self, tall: torch.Tensor) -> Iterator[torch.Tensor]:
        rows, columns = tall.shape
        step = min(rows, max(1, _ROWS // columns))
        if self._block.numel() < step * columns:
            self._block = torch.empty(step * columns, dtype=self._block.dtype)
        for start in range(0, rows, step):
            taken = min(step, rows - start)
            yield self._block[: taken * columns].view(taken, columns).copy_(tall[start : start + taken])


def gram_eigenvalues(matrix: torch.Tensor, dtype: torch.dtype = torch.float64) -> Floats:
    """Those of a single matrix."""
    return Grams(dtype).eigenvalues(matrix)


def _add_upper(gram: torch.Tensor, block: torch.Tensor) -> None:
    """Add the block's own Gram matrix above the diagonal; what lies below is the same and never read."""
    columns = block.shape[1]
    for left in range(0, columns, _BLOCK):
        right = min(left + _BLOCK, columns)
        gram[left:right, left:].addmm_(block[:, left:right].T, block[:, left:])


def top_eigenvalues(matrix: torch.Tensor, count: int, seed: int = 0, rounds: int = 6) -> tuple[Floats, Floats]:
    """The largest `count` eigenvalues of WᵀW, ascending, and a bound on the error of each.

    Subspace iteration from random vectors (Halko, Martinsson and Tropp 2011, algorithm 4.4) with a quarter more of
    them than asked for. Each value lies within the norm of its residual of some eigenvalue, by Weyl's theorem.
    """
    tall = matrix.detach() if matrix.shape[0] >= matrix.shape[1] else matrix.detach().T
    width = min(tall.shape[1], count + count // 4 + 8)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(tall.shape[1], width, dtype=torch.float64, generator=generator)
    for _ in range(rounds):
        basis = torch.linalg.qr(_gram_times(tall, basis))[0]
    image = _gram_times(tall, basis)
    small = basis.T @ image
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    residuals = (image @ vectors - (basis @ vectors) * values).norm(dim=0)
    top = slice(width - min(count, width), None)
    return _array(values[top].clamp_min(0)), _array(residuals[top])


def _gram_times(tall: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    product = torch.zeros_like(basis)
    step = max(1, _ROWS // tall.shape[1])
    for start in range(0, tall.shape[0], step):
        block = tall[start : start + step].double()
        product.addmm_(block.T, block @ basis)
    return product


def _array(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.double().numpy(), np.float64)


def resolvable(eigenvalues: Floats, longest: int, epsilon: float) -> Floats:
    """The eigenvalues above what rounding leaves of a zero: singular values over `longest`·`epsilon` of the largest."""
    if eigenvalues.size == 0:
        return eigenvalues
    kept: Floats = eigenvalues[eigenvalues > eigenvalues[-1] * (longest * epsilon) ** 2]
    return kept


def fit_power_law(values: Floats) -> PowerLaw | None:
    """The power law of the tail whose start gives the smallest distance; `values` ascending and positive.

    The search is exact: a distance looked at in a few places bounds it from below, and is computed in full only while
    that bound does not exceed the best one found. None where there are fewer than two different values.
    """
    count = values.size
    if count < 2 or values[0] == values[-1]:
        return None
    alphas = _exponents(np.log(values))
    floors = _distances_below(values, alphas)
    best, distance = -1, math.inf
    for start in np.argsort(floors, kind="stable"):
        if floors[start] > distance:
            break
        found = _distance(values, int(start), float(alphas[start]))
        if found < distance or (found == distance and start < best):
            best, distance = int(start), found
    tail = count - best
    alpha = float(alphas[best])
    return PowerLaw(alpha, (alpha - 1) / math.sqrt(tail), float(values[best]), distance, tail)


def fit_small_power_law(values: Floats) -> PowerLaw | None:
    """As WeightWatcher 0.7.7 fits fewer than `SMALL` values: with its bias corrected, and no tail of fewer than eight.

    None where there is no such tail.
    """
    fits: list[PowerLaw] = []
    for start in range(values.size - _SHORTEST + 1):
        tail = values[start:]
        logs = float(np.log(tail / tail[0]).sum())
        if logs > 1e-12:
            alpha = 1.0 + (tail.size - 1) / logs
            stderr = (alpha - 1) / math.sqrt(tail.size)
            fits.append(PowerLaw(alpha, stderr, float(tail[0]), _distance(values, start, alpha), tail.size))
    return min(fits, key=lambda fit: fit.distance, default=None)


def _exponents(logs: Floats) -> Floats:
    """The most likely exponent for every start of the tail but the last; infinite where all of a tail is equal."""
    counts = np.arange(logs.size, 0, -1, dtype=np.float64)
    sums = np.cumsum(logs[::-1])[::-1] - counts * logs
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 + counts[:-1] / np.maximum(sums[:-1], 0.0), dtype=np.float64)


def _distance(values: Floats, start: int, alpha: float) -> float:
    """Largest difference between the fitted and the observed distribution of a tail, which is 0 at its start."""
    if not math.isfinite(alpha):
        return 1.0
    tail = values[start:]
    fitted = 1.0 - (tail / tail[0]) ** (1.0 - alpha)
    return float(np.abs(fitted - np.arange(tail.size) / tail.size).max())


def _distances_below(values: Floats, alphas: Floats) -> Floats:
    """A lower bound of every start's distance, from some of its places."""
    starts = np.arange(alphas.size)
    counts = values.size - starts
    finite = np.isfinite(alphas)
    powers = np.where(finite, 1.0 - alphas, 0.0)
    logs = np.log(values)
    places = np.rint(np.linspace(0.0, 1.0, _PROBES)[:, None] * (counts - 1)).astype(np.int64)
    fitted = 1.0 - np.exp(powers * (logs[starts + places] - logs[starts]))
    floors = np.abs(fitted - places / counts).max(axis=0)
    # Logarithms and powers differ in the last digits: a bound must not exceed the distance that it bounds.
    return np.where(finite, floors * (1 - 1e-9) - 1e-12, 1.0)


def effective_rank(weights: Floats) -> float:
    """Perplexity: exp of the entropy of the weights taken as probabilities; 1 to their number."""
    shares = weights[weights > 0] / weights.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def bulk_of(eigenvalues: Floats, rows: int, columns: int) -> Bulk:
    """The random bulk that has the spectrum's median (Gavish and Donoho 2014), and what stands out of it.

    The edge is σ²(√m + √n)². A spike lies above the 99 % quantile of the largest eigenvalue of noise, which exceeds or
    misses the edge by the Tracy–Widom law (Johnstone 2001); its strength θ is that of the planted singular value whose
    image is (σ²m + θ²)(σ²n + θ²)/θ² (Baik, Ben Arous and Péché 2005; Benaych-Georges and Nadakuditi 2012).
    """
    long, short = max(rows, columns), min(rows, columns)
    variance = float(np.median(eigenvalues)) / (long * marchenko_pastur_median(short / long))
    edge = variance * (math.sqrt(long) + math.sqrt(short)) ** 2
    root = math.sqrt(long - 1) + math.sqrt(short) if long > 1 else 2.0
    width = root * (1 / math.sqrt(max(long - 1, 1)) + 1 / math.sqrt(short)) ** (1 / 3)
    threshold = variance * (root**2 + TRACY_WIDOM_99 * width)
    spikes = int((eigenvalues > threshold).sum())
    strength = _planted(float(eigenvalues[-1]), variance, long, short) if spikes else 0.0
    return Bulk(math.sqrt(variance), edge, spikes, strength)


def _planted(largest: float, variance: float, long: int, short: int) -> float:
    """θ with (σ²m + θ²)(σ²n + θ²)/θ² = largest: the greater root of a quadratic in θ²."""
    middle = largest - variance * (long + short)
    root = math.sqrt(max(middle**2 - 4 * variance**2 * long * short, 0.0))
    return math.sqrt(max((middle + root) / 2, 0.0))


@lru_cache(maxsize=256)
def marchenko_pastur_median(ratio: float) -> float:
    """Median of the Marchenko–Pastur law of a `ratio` in (0, 1], in units of σ² times the longer side."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # With x = middle - half·cos t the root in the density becomes a sine, and the integrand is smooth.
    angles = np.linspace(0.0, math.pi, 20_001)
    places = (low + high) / 2 - (high - low) / 2 * np.cos(angles)
    heights = np.divide(
        ((high - low) / 2 * np.sin(angles)) ** 2, places, out=np.zeros_like(places), where=places > 1e-300
    )
    if low == 0.0:
        heights[0] = high  # the limit, where both vanish
    masses = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    return float(np.interp(0.5 * masses[-1], masses, places))
