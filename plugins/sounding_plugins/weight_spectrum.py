"""Spectra of the weight matrices: ranks, power laws in the tail, and what stands out of a random bulk."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from sounding import Checkpoint, Curve, Finding, Metric, Reading, Skip, plugin
from sounding.numbers import sum_of_squares
from sounding.passes import Weights
from sounding.records import Quality
from sounding.spectra import (
    SMALL,
    Floats,
    Grams,
    bulk_of,
    effective_rank,
    fit_power_law,
    fit_small_power_law,
    resolvable,
    top_eigenvalues,
)

_CLAUSET = "Clauset, Shalizi and Newman 2009, eq. 3.1 and sec. 3.3"
_BULK = "Gavish and Donoho 2014; Marchenko and Pastur 1967"
_WATCHER_FLOOR = 1e-5  # WeightWatcher leaves out eigenvalues below this, whatever their scale
_SINGLE_FLOOR = 1e-6  # of the largest: below it a Gram matrix in float32 has no digits
_RELIABLE = 50  # values in a tail, from which on the exponent is right to a per cent (Clauset et al.)
_POINTS = 256  # of a curve


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvalues of WᵀW, ascending; `errors` bounds each where only the largest were computed."""

    values: Floats
    shape: tuple[int, int]
    squares: float  # sum of all eigenvalues
    errors: Floats | None = None

    @property
    def whole(self) -> bool:
        """Whether these are all of them."""
        return self.errors is None


@plugin(
    version=2,
    metrics=[
        Metric("lambda_max", "weight²", "largest eigenvalue of WᵀW, the square of the spectral norm", "definition"),
        Metric("stable_rank", "1", "squared Frobenius norm over lambda_max", "Rudelson and Vershynin 2007"),
        Metric("effective_rank", "1", "exp of the entropy of the normalised singular values", "Roy and Vetterli 2007"),
        Metric("effective_rank_energy", "1", "exp of the entropy of the normalised eigenvalues", "definition"),
        Metric("matrix_entropy", "1", "entropy of the eigenvalues over its maximum, ln rank", "WeightWatcher 0.7.7"),
        Metric(
            "matrix_rank", "count", "singular values above rounding: longer side x eps of the largest", "definition"
        ),
        Metric("alpha", "1", "exponent of the power law in the tail of the eigenvalues, with standard error", _CLAUSET),
        Metric("xmin", "weight²", "eigenvalue at which the tail begins", _CLAUSET),
        Metric("ks_distance", "1", "Kolmogorov-Smirnov distance of the tail from its power law", _CLAUSET),
        Metric("tail", "count", "eigenvalues in the tail", _CLAUSET),
        Metric("alpha_weighted", "1", "alpha x log10(lambda_max)", "Martin, Peng and Mahoney 2021"),
        Metric("log_alpha_norm", "1", "log10 of the sum of eigenvalues to the power alpha", "Martin et al. 2021"),
        Metric("mp_sigma", "weight", "standard deviation of the entries of the random bulk", _BULK),
        Metric("mp_edge", "weight²", "upper edge of the bulk, sigma² (sqrt m + sqrt n)²", _BULK),
        Metric("spikes", "count", "eigenvalues above the 99 % quantile of noise's largest", "Johnstone 2001"),
        Metric(
            "spike_strength", "weight", "planted singular value behind lambda_max", "Baik, Ben Arous and Péché 2005"
        ),
        Metric("singular_values", "weight", "singular value by rank, from the largest", "definition", kind="curve"),
    ],
)
def weight_spectrum(
    weights: Weights,
    checkpoint: Checkpoint,
    *,
    mode: Literal["corrected", "weightwatcher"] = "corrected",
    single_precision: bool = False,
    smallest: int = 16,
    full_up_to: int = 4096,
    top: int = 256,
    gigaflops: float = 2_000.0,
) -> Iterator[Finding]:
    """Spectrum of every weight matrix with at least `smallest` rows and columns; needs neither model code nor data.

    A convolution's kernel is unfolded to [out, in x k x k]. `mode="weightwatcher"` gives that package's numbers: the
    kernel as k x k pooled slices, and an absolute floor for eigenvalues. Above `full_up_to` rows and columns only the
    `top` largest are computed. What exceeds `gigaflops` per checkpoint waits for its turn at the next ones.
    """
    chosen = [name for name in weights.parameters() if _is_matrix(weights.shape(name), smallest)]
    if not chosen:
        yield Skip(f"no weight matrix has {smallest} rows and columns")
        return
    costs = {name: _gigaflops(weights.shape(name), mode, full_up_to, top) for name in chosen}
    affordable = _affordable(costs, gigaflops, checkpoint.ordinal)
    grams = Grams(torch.float32 if single_precision else torch.float64)
    for name in chosen:
        if name not in affordable:
            yield Skip(
                f"left to a later checkpoint: {gigaflops:g} gigaflops a checkpoint are not enough (`gigaflops`)",
                part=name,
            )
        elif not _is_finite(weights[name]):
            yield Skip("it has values that are NaN or infinite", part=name)
        else:
            tensor = weights[name]
            spectrum = _spectrum(tensor, mode, grams, full_up_to, top)
            epsilon = _epsilon(tensor, single_precision, mode)
            del tensor
            weights.release(name)
            yield from _findings(spectrum, name, mode, epsilon)


def _findings(spectrum: Spectrum, part: str, mode: str, epsilon: float) -> Iterator[Finding]:
    values = spectrum.values
    if values.size == 0 or values[-1] <= 0.0:
        yield Skip("all of it is zero", part=part)
        return
    largest = float(values[-1])
    if spectrum.errors is None:
        yield Reading("lambda_max", largest, part=part)
    else:
        error = float(spectrum.errors[-1])
        yield Reading("lambda_max", largest, part=part, low=largest - error, high=largest + error)
    yield Reading("stable_rank", spectrum.squares / largest, part=part)
    clear = resolvable(values, max(spectrum.shape), epsilon)
    if spectrum.whole:
        yield from _ranks(values, clear, part)
    yield from _tail(spectrum, clear, part, mode)
    if mode == "corrected" and spectrum.whole:
        yield from _bulk(values, spectrum.shape, part)
    if not spectrum.whole:
        yield Skip(f"only its {values.size} largest eigenvalues were computed, so nothing is said of the rest", part)
    yield _curve(values, part)


def _ranks(values: Floats, clear: Floats, part: str) -> Iterator[Finding]:
    energy = effective_rank(values)
    yield Reading("effective_rank", effective_rank(np.sqrt(values)), part=part)
    yield Reading("effective_rank_energy", energy, part=part)
    yield Reading("matrix_rank", clear.size, part=part)
    if clear.size > 1:
        yield Reading("matrix_entropy", math.log(energy) / math.log(clear.size), part=part)


def _tail(spectrum: Spectrum, clear: Floats, part: str, mode: str) -> Iterator[Finding]:
    watcher = mode == "weightwatcher"
    values = spectrum.values[spectrum.values > _WATCHER_FLOOR] if watcher else clear
    fit = fit_small_power_law(values) if watcher and values.size < SMALL else fit_power_law(values)
    if fit is None:
        yield Skip(f"{values.size} eigenvalues have no tail to fit", part=part)
        return
    cut = not spectrum.whole and fit.xmin == values[0]  # the tail may begin below what was computed
    quality: Quality = "unresolved" if fit.tail < _RELIABLE or cut else "ok"
    largest = float(spectrum.values[-1])
    yield Reading("alpha", fit.alpha, part=part, stderr=fit.stderr, quality=quality)
    yield Reading("xmin", fit.xmin, part=part, quality=quality)
    yield Reading("ks_distance", fit.distance, part=part, quality=quality)
    yield Reading("tail", fit.tail, part=part, quality=quality)
    yield Reading("alpha_weighted", fit.alpha * math.log10(largest), part=part, quality=quality)
    if spectrum.whole:
        norm = fit.alpha * math.log10(largest) + math.log10(float(((spectrum.values / largest) ** fit.alpha).sum()))
        yield Reading("log_alpha_norm", norm, part=part, quality=quality)


def _bulk(values: Floats, shape: tuple[int, int], part: str) -> Iterator[Finding]:
    bulk = bulk_of(values, *shape)
    if bulk.sigma == 0.0:
        yield Skip("half of its eigenvalues are zero: there is no bulk", part=part)
        return
    yield Reading("mp_sigma", bulk.sigma, part=part)
    yield Reading("mp_edge", bulk.edge, part=part)
    yield Reading("spikes", bulk.spikes, part=part)
    if bulk.spikes:
        yield Reading("spike_strength", bulk.strength, part=part)


def _curve(values: Floats, part: str) -> Curve:
    """Singular values by rank, thinned out evenly on a logarithmic scale of ranks."""
    ranks = np.unique(np.geomspace(1, values.size, min(_POINTS, values.size)).round().astype(int))
    heights = np.sqrt(values[::-1][ranks - 1])
    return Curve("singular_values", tuple(ranks.astype(float).tolist()), tuple(heights.tolist()), part=part)


def _spectrum(tensor: torch.Tensor, mode: str, grams: Grams, full_up_to: int, top: int) -> Spectrum:
    slices = _slices(tensor, mode)
    rows, columns = slices[0].shape
    if min(rows, columns) > full_up_to and len(slices) == 1:
        values, errors = top_eigenvalues(slices[0], top)
        return Spectrum(values, (rows, columns), sum_of_squares(slices[0]), errors)
    scale = 0.5 if mode == "weightwatcher" and tensor.ndim == 4 else 1.0
    values = scale * np.sort(np.concatenate([grams.eigenvalues(each) for each in slices]))
    return Spectrum(values, (rows, columns), float(values.sum()))


def _slices(tensor: torch.Tensor, mode: str) -> list[torch.Tensor]:
    """The matrices that make up a tensor's spectrum: one, or WeightWatcher's k x k slices of a kernel."""
    if mode == "weightwatcher" and tensor.ndim == 4:
        return list(tensor.detach().permute(2, 3, 0, 1).flatten(0, 1))
    return [tensor.detach().reshape(tensor.shape[0], -1)]


def _affordable(costs: dict[str, float], budget: float, turn: int) -> set[str]:
    """The matrices measured at the `turn`-th checkpoint: as many as the budget bears, at least one, going round."""
    names = list(costs)
    if sum(costs.values()) <= budget:
        return set(names)
    rounds: list[set[str]] = [set()]
    spent = 0.0
    for name in names:
        if rounds[-1] and spent + costs[name] > budget:
            rounds.append(set())
            spent = 0.0
        rounds[-1].add(name)
        spent += costs[name]
    return rounds[turn % len(rounds)]


def _gigaflops(shape: tuple[int, ...], mode: str, full_up_to: int, top: int) -> float:
    """What the eigenvalues cost: the Gram matrix's upper half and its reduction, or products with the top vectors."""
    sliced = mode == "weightwatcher" and len(shape) == 4
    count = math.prod(shape[2:]) if sliced else 1
    columns = shape[1] if sliced else math.prod(shape[1:])
    long, short = max(shape[0], columns), min(shape[0], columns)
    if short > full_up_to and count == 1:
        return 28 * long * short * (1.25 * top) / 1e9
    return count * (long * short**2 + 4 / 3 * short**3) / 1e9


def _is_matrix(shape: tuple[int, ...], smallest: int) -> bool:
    return len(shape) >= 2 and min(shape[0], math.prod(shape[1:])) >= smallest


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are; a sum tells at once where none overflows."""
    quick = tensor.dtype in (torch.float32, torch.float64) and math.isfinite(float(tensor.sum()))
    return quick or math.isfinite(sum_of_squares(tensor))


def _epsilon(tensor: torch.Tensor, single: bool, mode: str) -> float:
    """Singular values that are noise, relative to longer side times the largest; WeightWatcher takes float64's."""
    stored = torch.finfo(torch.float64 if mode == "weightwatcher" else tensor.dtype).eps
    return max(stored, math.sqrt(_SINGLE_FLOOR) / max(tensor.shape)) if single else stored
