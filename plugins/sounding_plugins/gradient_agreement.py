"""Whether examples pull the weights the same way: norms, signs and conflicts of their gradients, signal and noise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.estimates import mean_of
from sounding.passes import LossGradients
from sounding.records import Quality

Floats = NDArray[np.float64]

_NOISE = (
    "McCandlish et al. 2018, arXiv:1812.06162, B_simple, from unbiased estimates of both parts; standard error by a "
    "jackknife over examples"
)
_SIGNS = "GradSign, Zhang and Jia 2022, arXiv:2110.08616"


@plugin(
    version=1,
    cost="gradient",
    metrics=[
        Metric("example_norm_mean", "loss/weight", "mean of the norms of single examples' gradients", "definition"),
        Metric("example_norm_median", "loss/weight", "their median", "definition"),
        Metric("example_norm_p95", "loss/weight", "their 95th percentile", "definition"),
        Metric("example_norm_max", "loss/weight", "the largest of them", "definition"),
        Metric("gradsign", "count", "sum over parameters of |sum over examples of the gradient's sign|; larger: more "
               "agreement", _SIGNS + ", over all parameters and not of weights alone"),
        Metric("gradsign_fraction", "fraction", "gradsign over parameters times examples", _SIGNS),
        Metric("conflict", "fraction", "share of pairs of examples whose gradients have a negative product",
               "Yu et al. 2020, arXiv:2001.06782, of examples and not tasks"),
        Metric("cosine_mean", "1", "mean cosine between the gradients of two examples", "stiffness, Fort et al. 2019, "
               "arXiv:1901.09491"),
        Metric("signal", "loss²/weight²", "squared norm of the mean gradient, unbiased: mean product of two examples'",
               _NOISE),
        Metric("noise", "loss²/weight²", "trace of the covariance of single examples' gradients, unbiased", _NOISE),
        Metric("gradient_snr", "1", "signal over noise, of one example", _NOISE),
        Metric("gradient_noise_scale", "examples", "noise over signal: the batch in which both are equal", _NOISE),
        Metric("examples", "count", "examples whose gradients were taken", "definition"),
    ],
)  # fmt: skip
def gradient_agreement(loss_gradients: LossGradients, *, sigmas: float = 2.0) -> Iterator[Finding]:
    """Gradients of single examples' losses in evaluation mode: how long, how much alike, and how much is noise.

    Where the signal is less than `sigmas` standard errors above zero, ratios with it are unresolved.
    """
    whole = loss_gradients.total
    if not np.isfinite(whole).all():
        yield Skip("an example's gradient is NaN or infinite")
        return
    yield Reading("examples", loss_gradients.examples, split="train")
    yield from _norms(np.sqrt(np.clip(np.diag(whole), 0.0, None)))
    yield from _signs(loss_gradients)
    yield from _directions(whole)
    for name, products in (("", whole), *loss_gradients.products.items()):
        yield from _noise(noise_of(products), name, sigmas)


def _norms(norms: Floats) -> Iterator[Finding]:
    mean = mean_of(norms)
    yield Reading("example_norm_mean", mean.value, split="train", stderr=mean.error)
    yield Reading("example_norm_median", float(np.median(norms)), split="train")
    yield Reading("example_norm_p95", float(np.quantile(norms, 0.95)), split="train")
    yield Reading("example_norm_max", float(norms.max()), split="train")


def _signs(found: LossGradients) -> Iterator[Finding]:
    total, size = sum(found.signs.values()), sum(found.sizes.values())
    yield Reading("gradsign", total, split="train")
    yield Reading("gradsign_fraction", total / (size * found.examples), split="train")
    for name, signs in found.signs.items():
        share = signs / (found.sizes[name] * found.examples)
        yield Reading("gradsign_fraction", share, part=name, split="train")


def _directions(products: Floats) -> Iterator[Finding]:
    lengths = np.sqrt(np.diag(products))
    moving = lengths > 0.0
    if moving.sum() < 3:
        yield Skip("fewer than three examples have a gradient: there are no directions to compare")
        return
    cosines = products[np.ix_(moving, moving)] / np.outer(lengths[moving], lengths[moving])
    for metric, values in (("conflict", (cosines < 0.0).astype(np.float64)), ("cosine_mean", cosines)):
        mean, error = pair_mean(values)
        yield Reading(metric, mean, split="train", stderr=error)


def pair_mean(values: Floats) -> tuple[float, float]:
    """Mean of a symmetric matrix off its diagonal, and its standard error by leaving out one example at a time."""
    count = len(values)
    rows = values.sum(1) - np.diag(values)
    left_out = (rows.sum() - 2.0 * rows) / ((count - 1) * (count - 2))
    return float(rows.sum() / (count * (count - 1))), jackknife(left_out)


def jackknife(left_out: Floats) -> float:
    """The standard error of what was computed without each example in turn."""
    count = len(left_out)
    return math.sqrt((count - 1) / count * float(np.sum((left_out - left_out.mean()) ** 2)))


@dataclass(frozen=True)
class Noise:
    """Unbiased signal and noise of gradients, with standard errors."""

    signal: float
    signal_error: float
    noise: float
    noise_error: float
    ratio: float  # noise over signal
    ratio_error: float
    inverse_error: float  # of signal over noise


def noise_of(products: Floats) -> Noise:
    """From the products of every two examples' gradients."""
    count = len(products)
    diagonal = np.diag(products)
    rows = products.sum(1) - diagonal
    signal, square = rows.sum() / (count * (count - 1)), diagonal.mean()
    signals = (rows.sum() - 2.0 * rows) / ((count - 1) * (count - 2))
    noises = (diagonal.sum() - diagonal) / (count - 1) - signals
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.divide(square - signal, signal))
        errors = jackknife(noises / signals), jackknife(signals / noises)
    return Noise(float(signal), jackknife(signals), float(square - signal), jackknife(noises), ratio, *errors)


def _noise(found: Noise, part: str, sigmas: float) -> Iterator[Finding]:
    if found.noise <= 0.0 and found.signal == 0.0:
        yield Skip("every example's gradient is zero", part=part)
        return
    resolved = found.signal > sigmas * found.signal_error
    quality: Quality = "ok" if resolved else "unresolved"
    yield Reading("signal", found.signal, part=part, split="train", stderr=found.signal_error)
    yield Reading("noise", found.noise, part=part, split="train", stderr=found.noise_error)
    if found.noise > 0.0:
        snr = found.signal / found.noise
        yield Reading("gradient_snr", snr, part=part, split="train", stderr=found.inverse_error, quality=quality)
    if found.signal > 0.0:
        error = found.ratio_error if resolved else None
        yield Reading("gradient_noise_scale", found.ratio, part=part, split="train", stderr=error, quality=quality)
    else:
        yield Skip("gradient_noise_scale: no signal is left beside the noise of so few examples", part=part)
