"""Norms of the weights, from the checkpoint alone."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import Layer, Magnitude, Magnitudes, ScaleInvariance, SpectralNorms, Top, Weights, layers_of
from sounding.records import Quality

_LANCZOS = "Golub-Kahan-Lanczos; a lower bound; unconverged where the residual exceeds the pass's tolerance"


def _metric(name: str, meaning: str, unit: str = "weight", source: str = "definition") -> Metric:
    return Metric(name, unit=unit, meaning=meaning, source=source)


@plugin(
    version=2,
    metrics=[
        _metric("frobenius", "Frobenius norm of the tensor, the square root of its sum of squares"),
        _metric("spectral", "largest singular value of the tensor as outputs x everything else", source=_LANCZOS),
        _metric("stable_rank", "squared Frobenius norm over squared spectral norm", unit="1", source=_LANCZOS),
        _metric("rms", "root mean square of the tensor's elements"),
        _metric("max_abs", "largest absolute value in the tensor"),
        _metric("min", "smallest value in the tensor"),
        _metric("max", "largest value in the tensor"),
        _metric("zeros", "share of the tensor's elements that are exactly zero", unit="fraction"),
        _metric("nans", "share of the tensor's elements that are not a number", unit="fraction"),
        _metric("infinities", "share of the tensor's elements that are infinite", unit="fraction"),
        _metric("dead_rows", "share of rows whose norm is below 1e-6 of the median row's", unit="fraction"),
        _metric("layer_total", "Frobenius norm of a layer's parameters taken as one vector; part is the layer"),
        _metric(
            "scale_invariant_total",
            "Frobenius norm of all scale-invariant weights taken as one vector; kind is the method that found them",
            source="Kodryan et al. 2022, arXiv:2209.03695",
        ),
        _metric("total", "Frobenius norm of all parameters taken as one vector, tied ones once"),
    ],
)
def weight_norm(
    weights: Weights,
    magnitudes: Magnitudes,
    spectral_norms: SpectralNorms,
    scale_invariance: ScaleInvariance,
    *,
    matrices_only: bool = False,
    spectral: bool = True,
) -> Iterator[Finding]:
    """Norms of every parameter, of layers and of the whole network; needs neither model code nor data.

    `matrices_only` leaves out tensors with fewer than two dimensions (biases, normalisation scales); totals always
    count every parameter. `spectral` = false leaves out spectral norms, which take longer than everything else.
    """
    for name, reason in weights.left_out.items():
        yield Skip(reason, part=name)
    if not magnitudes:
        yield Skip("the network has no floating-point parameters")
        return
    layers = layers_of({name: each.shape for name, each in magnitudes.items()}, ordered=weights.ordered)
    for name, magnitude in magnitudes.items():
        if magnitude.count == 0 or (matrices_only and len(magnitude.shape) < 2):
            continue
        yield from _readings(magnitude, name, layers[name])
        if spectral and name in spectral_norms:
            yield from _spectral(magnitude, spectral_norms[name], spectral_norms.tolerance, name, layers[name])
    yield from _totals(magnitudes, layers)
    if scale_invariance:
        yield Reading("scale_invariant_total", scale_invariance.norm(magnitudes), kind=scale_invariance.method)


def _readings(of: Magnitude, name: str, layer: Layer) -> Iterator[Finding]:
    low, high = of.low, of.high  # first: the sums come with them, from one reading
    found = {
        "frobenius": of.norm,
        "rms": of.norm / math.sqrt(of.count),
        "max_abs": of.max_abs,
        "min": low,
        "max": high,
        "zeros": of.zeros / of.count,
        "nans": of.nans / of.count,
        "infinities": of.infinities / of.count,
    }
    if len(of.shape) > 1:
        found["dead_rows"] = of.dead_rows / len(of.rows)
    for metric, value in found.items():
        yield Reading(metric, value, part=name, kind=layer.kind, depth=layer.depth)


def _spectral(of: Magnitude, top: Top, tolerance: float, name: str, layer: Layer) -> Iterator[Finding]:
    converged = top.residual <= tolerance
    quality: Quality = "ok" if converged else "unconverged"
    here = Reading("spectral", top.sigma, None, name, "", layer.kind, layer.depth, quality=quality)
    yield replace(here, low=top.sigma, high=top.high if converged else None)
    if top.sigma > 0.0:
        rank = of.squares / top.sigma**2
        low = of.squares / top.high**2 if converged else None
        yield replace(here, metric="stable_rank", value=rank, low=low, high=rank)


def _totals(magnitudes: Magnitudes, layers: Mapping[str, Layer]) -> Iterator[Finding]:
    squares: dict[str, float] = {}
    for name, each in magnitudes.items():
        squares[layers[name].name] = squares.get(layers[name].name, 0.0) + each.squares
    depths = {layer.name: layer.depth for layer in layers.values()}
    for layer, value in squares.items():
        yield Reading("layer_total", math.sqrt(value), part=layer, depth=depths[layer])
    yield Reading("total", magnitudes.norm)
