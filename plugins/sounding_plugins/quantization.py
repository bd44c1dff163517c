"""What rounding the weights to few bits would cost: ternary, bfloat16 and 8-bit floats, and channels that stand out."""

import math
from collections.abc import Callable, Iterator

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.numbers import chunks, sum_of_squares
from sounding.passes import Weights

_BINS = 4096
_ROUNDS = 4  # of refining the median: each narrows it to a bin
_FP8 = "Micikevicius et al. 2022; one scale per tensor, its largest value to the format's largest"
_TERNARY = "scale x clamp(round(w / scale), -1, 1) with scale the {} of |w|; {}"
_MEAN = _TERNARY.format("mean", "BitNet b1.58, Ma et al. 2024, eq. 1 to 3")
_MEDIAN = _TERNARY.format("median", "BitNet b1.58 Reloaded, Nielsen and Schneider-Kamp 2024")


@plugin(
    version=1,
    metrics=[
        Metric("ternary_error_mean", "1", "squared error over squared norm of the ternary weights", _MEAN),
        Metric("ternary_zeros_mean", "fraction", "share of ternary weights that are zero", _MEAN),
        Metric("ternary_error_median", "1", "squared error over squared norm of the ternary weights", _MEDIAN),
        Metric("ternary_zeros_median", "fraction", "share of ternary weights that are zero", _MEDIAN),
        Metric("bfloat16_error", "1", "norm of the rounding error over the norm", "rounding to nearest, ties to even"),
        Metric("fp8_e4m3_error", "1", "norm of the rounding error over the norm", _FP8),
        Metric("fp8_e5m2_error", "1", "norm of the rounding error over the norm", _FP8),
        Metric("outlier_channels", "count", "columns whose largest |w| is over `outlier_ratio` x the median column's",
               "definition"),
        Metric("channel_range", "1", "largest over median of the columns' largest |w|", "definition"),
    ],
)  # fmt: skip
def quantization(weights: Weights, *, outlier_ratio: float = 4.0, smallest: int = 16) -> Iterator[Finding]:
    """Rounding errors of every weight matrix with at least `smallest` rows and columns, were it stored in few bits.

    A column is an input channel; a convolution's kernel is taken as [out, in x k x k].
    """
    found = False
    for name, tensor in weights.parameters().items():
        if tensor.ndim < 2 or min(tensor.shape[0], math.prod(tensor.shape[1:])) < smallest:
            continue
        found = True
        squares = sum_of_squares(tensor)
        if squares == 0.0 or not math.isfinite(squares):
            yield Skip("all of it is zero" if squares == 0.0 else "it has values that are NaN or infinite", part=name)
            continue
        yield from _ternary(tensor, squares, name)
        yield from _rounded(tensor, squares, name)
        yield from _channels(tensor, outlier_ratio, name)
    if not found:
        yield Skip(f"no weight matrix has {smallest} rows and columns")


def _ternary(tensor: torch.Tensor, squares: float, part: str) -> Iterator[Finding]:
    mean = sum(float(chunk.abs().sum()) for chunk in chunks(tensor)) / tensor.numel()
    for name, scale in (("mean", mean), ("median", median_magnitude(tensor))):
        if scale == 0.0:
            yield Skip(f"the {name} of |w| is zero, so there is no ternary scale by it", part=part)
            continue
        error, zeros = 0.0, 0
        for chunk in chunks(tensor):
            signs = (chunk / scale).round().clamp(-1, 1)
            rest = chunk - scale * signs
            error += float(torch.dot(rest, rest))
            zeros += signs.numel() - int(signs.count_nonzero())
        yield Reading(f"ternary_error_{name}", error / squares, part=part)
        yield Reading(f"ternary_zeros_{name}", zeros / tensor.numel(), part=part)


def median_magnitude(tensor: torch.Tensor) -> float:
    """The median of |w|, a chunk at a time, by histograms of ever narrower bins: right to 1e-14 of the largest."""
    low, high = 0.0, max(float(chunk.abs().max()) for chunk in chunks(tensor))
    wanted, below = (tensor.numel() - 1) / 2, 0.0
    for _ in range(_ROUNDS):
        if high <= low:
            break
        counts = torch.zeros(_BINS, dtype=torch.float64)
        for chunk in chunks(tensor):
            counts += torch.histc(chunk.abs(), _BINS, low, high)
        reached = below + counts.cumsum(0)
        place = min(int((reached <= wanted).sum()), _BINS - 1)
        below = float(reached[place] - counts[place])
        width = (high - low) / _BINS
        low, high = low + place * width, low + (place + 1) * width
    return (low + high) / 2 if low > 0.0 else 0.0  # after as many rounds, what is in the first bin is zero


def _rounded(tensor: torch.Tensor, squares: float, part: str) -> Iterator[Finding]:
    largest = max(float(chunk.abs().max()) for chunk in chunks(tensor))
    for metric, dtype in (
        ("bfloat16_error", torch.bfloat16),
        ("fp8_e4m3_error", torch.float8_e4m3fn),
        ("fp8_e5m2_error", torch.float8_e5m2),
    ):
        scale = 1.0 if dtype == torch.bfloat16 else torch.finfo(dtype).max / largest
        error = _squared_error(tensor, _rounding(dtype, scale))
        yield Reading(metric, math.sqrt(error / squares), part=part)


def _rounding(dtype: torch.dtype, scale: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda chunk: (chunk * scale).float().to(dtype).double() / scale


def _squared_error(tensor: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]) -> float:
    rests = (chunk - rounded(chunk) for chunk in chunks(tensor))
    return sum(float(torch.dot(rest, rest)) for rest in rests)


def _channels(tensor: torch.Tensor, outlier_ratio: float, part: str) -> Iterator[Finding]:
    """Of a large matrix some rows at a time, so that no copy of the whole is made."""
    matrix = tensor.detach().reshape(tensor.shape[0], -1)
    step = max(1, (1 << 20) // matrix.shape[1])
    peaks = torch.zeros(matrix.shape[1], dtype=torch.float64)
    for start in range(0, matrix.shape[0], step):
        peaks = torch.maximum(peaks, matrix[start : start + step].double().abs().amax(0))
    typical = float(peaks.median())
    if typical == 0.0:
        yield Skip("half of its columns are zero, so no column is typical", part=part)
        return
    yield Reading("outlier_channels", int((peaks > outlier_ratio * typical).sum()), part=part)
    yield Reading("channel_range", float(peaks.max()) / typical, part=part)
