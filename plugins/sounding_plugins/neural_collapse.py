"""Neural collapse: how far features have shrunk to their class means, and these to a simplex aligned with the head."""

import math
from collections.abc import Iterator

import torch

from sounding import Curve, Finding, Metric, Reading, Skip, plugin
from sounding.geometry import collapse
from sounding.geometry.imbalance import DeepLinear
from sounding.geometry.moments import ClassMoments
from sounding.geometry.nulls import Chance, etf_floor, of_permuted_labels
from sounding.passes import FeatureMoments, Head, LayerMoments, SplitMoments
from sounding.records import Quality

_PAPYAN = "Papyan, Han and Donoho 2020, arXiv:2008.08186"
_ZHU = "Zhu et al. 2021, arXiv:2105.02375"
_WU = "Wu and Papyan 2024, arXiv:2405.17767"
_DANG = "Dang et al. 2023, arXiv:2301.00437"
_HE = "He and Su 2022, arXiv:2210.17020"


@plugin(
    version=1,
    cost="data",
    metrics=[
        Metric("nc1_pinv", "1", "tr(Σ_W Σ_B†)/C, classes weighted equally in Σ_B", _PAPYAN),
        *(Metric(f"{name}_null", "1", f"{name} with permuted labels: median and extremes of three draws", "definition")
          for name in Chance._fields),
        Metric("nc1_quotient", "1", "tr Σ_W / tr Σ_B", "Tirer, Huang and Niles-Weed 2023"),
        Metric("cdnv", "1", "mean over pairs of classes of (v + v')/(2 distance²)", "Galanti et al. 2021"),
        Metric("fuzziness", "1", "tr(S_W S_B†) with classes weighted by their shares", _HE),
        Metric("fuzziness_ratio", "1", "factor by which fuzziness changes per layer, fitted to its logarithm", _HE),
        Metric("fuzziness_by_depth", "1", "fuzziness of every layer, by its place", _HE, kind="curve"),
        Metric("nc2_norm_means", "1", "standard deviation over mean of the norms of centred class means", _PAPYAN),
        Metric("nc2_norm_head", "1", "the same of the head's rows", _PAPYAN),
        Metric("nc2_angle_means", "1", "mean over pairs of |cos + 1/(C - 1)| of centred class means", _PAPYAN),
        Metric("nc2_angle_head", "1", "the same of the head's rows", _PAPYAN),
        Metric("nc2_etf_error_means", "1", "distance of normalised M̃M̃ᵀ from that of a simplex ETF", _ZHU),
        Metric("nc2_etf_error_head", "1", "distance of normalised WWᵀ from that of a simplex ETF", _ZHU),
        Metric("nc2_etf_error_floor", "1", "least ETF error of C vectors in d dimensions", "Eckart and Young 1936"),
        Metric("nc3_self_duality", "1", "Frobenius norm of W/|W| - M̃/|M̃|", _PAPYAN),
        Metric("nc3_self_duality_squared", "1", "its square, which is what the paper plots", _PAPYAN),
        Metric("nc3_etf_error", "1", "distance of normalised WM̃ᵀ from that of a simplex ETF", _ZHU),
        Metric("nc3_bias", "logit", "norm of Wμ_G + b", _ZHU),
        Metric("nc4_disagreement", "fraction", "examples that head and nearest train class mean classify differently",
               _PAPYAN),
        Metric("gnc2_mean", "1", "mean over pairs of log 1/distance of normalised centred means", _WU),
        Metric("gnc2_variance", "1", "variance over pairs of log 1/distance of normalised centred means", _WU),
        Metric("unc3_mean", "1", "mean over classes of the cosine of head row and centred mean", _WU),
        Metric("unc3_variance", "1", "variance over classes of the cosine of head row and centred mean", _WU),
        Metric("classes", "count", "classes with examples (of token probes: with enough tokens)", "definition"),
        Metric("examples_per_class", "count", "mean number of examples of those classes", "definition"),
        Metric("class_mean_norm", "feature", "norm of a class mean, by class in `group`", "definition"),
        Metric("class_mean_norm_theory", "feature", "the same at the minimum of a deep linear network", _DANG),
    ],
)  # fmt: skip
def neural_collapse(
    class_moments: FeatureMoments,
    layer_moments: LayerMoments,
    head: Head,
    *,
    depth: bool = False,
    theory_layers: int = 0,
    theory_decay: float = 5e-4,
    theory_feature_decay: float = 5e-4,
) -> Iterator[Finding]:
    """Collapse of the features that enter the head, on every split.

    `depth` adds the layers before. With `theory_layers` > 0 the class means' norms stand beside those of a linear
    network of so many layers trained on squared errors with these decays of weights and features.
    """
    if not class_moments:
        yield Skip("the probe holds no example that counts")
    for split, found in class_moments.items():
        if not found.labelled:
            yield Skip("targets are no classes of the head (one integer for each row of features)", part=split)
        elif not found.moments.finite:
            yield Skip("features are NaN or infinite", part=split)
        elif len(found.moments.classes) < 2:
            yield Skip(f"{len(found.moments.classes)} classes have enough examples, and it takes two", part=split)
        else:
            yield from _of_split(found, head, split)
            if theory_layers > 0:
                decays = (theory_decay, theory_feature_decay)
                yield from _theory(found.moments, split, theory_layers, decays)
    if depth:
        yield from _along_depth(layer_moments)


def _of_split(found: SplitMoments, head: Head, split: str) -> Iterator[Finding]:
    moments = found.moments
    yield from _missing(found, head, split)
    yield Reading("classes", len(moments.classes), split=split)
    yield Reading("examples_per_class", float(moments.counts.mean()), split=split)
    yield from _within(found, split)
    yield from _means(moments, split)
    weight = head.weight.detach().to(moments.means)[moments.classes]
    yield from _duality(moments, weight, head, split)
    if found.tokens:
        yield from _tokens(moments, weight, split)
    share = found.disagreement
    if share is not None:
        surely: Quality = "ok" if share.low == share.high else "unresolved"
        yield Reading("nc4_disagreement", share.value, split=split, low=share.low, high=share.high, quality=surely)


def _missing(found: SplitMoments, head: Head, split: str) -> Iterator[Skip]:
    empty = head.classes - len(found.moments.classes) - found.dropped
    if found.dropped:
        yield Skip(f"{found.dropped} classes have too few tokens (`least_tokens`) and are left out", part=split)
    if empty:
        yield Skip(f"{empty} classes of the head have no examples and are left out", part=split)


def _within(found: SplitMoments, split: str) -> Iterator[Finding]:
    moments = found.moments
    yield Reading("nc1_quotient", collapse.nc1_quotient(moments), split=split)
    yield Reading("cdnv", collapse.cdnv(moments), split=split)
    if found.dropped:
        yield Skip("the scatter of the classes left out is not known apart: no nc1_pinv, no fuzziness", part=split)
        return
    yield Reading("nc1_pinv", collapse.nc1_pinv(moments), split=split)
    yield Reading("fuzziness", collapse.fuzziness(moments), split=split)
    for name, draws in zip(Chance._fields, zip(*of_permuted_labels(moments), strict=True), strict=True):
        low, middle, high = sorted(draws)
        yield Reading(f"{name}_null", middle, split=split, low=low, high=high)


def _means(moments: ClassMoments, split: str) -> Iterator[Reading]:
    centred = moments.centred
    yield Reading("nc2_norm_means", collapse.norm_variation(centred), split=split)
    yield Reading("nc2_angle_means", collapse.angle_deviation(centred), split=split)
    yield Reading("nc2_etf_error_means", collapse.etf_error(centred @ centred.T), split=split)
    yield Reading("nc2_etf_error_floor", etf_floor(*centred.shape), split=split)


def _duality(moments: ClassMoments, weight: torch.Tensor, head: Head, split: str) -> Iterator[Reading]:
    centred = moments.centred
    yield Reading("nc2_norm_head", collapse.norm_variation(weight), split=split)
    yield Reading("nc2_angle_head", collapse.angle_deviation(weight), split=split)
    yield Reading("nc2_etf_error_head", collapse.etf_error(weight @ weight.T), split=split)
    duality = collapse.self_duality(weight, centred)
    yield Reading("nc3_self_duality", duality, split=split)
    yield Reading("nc3_self_duality_squared", duality**2, split=split)
    yield Reading("nc3_etf_error", collapse.etf_error(weight @ centred.T), split=split)
    bias = None if head.bias is None else head.bias.detach().to(weight)[moments.classes]
    yield Reading("nc3_bias", collapse.bias_collapse(weight, bias, moments), split=split)


def _tokens(moments: ClassMoments, weight: torch.Tensor, split: str) -> Iterator[Reading]:
    centred = moments.centred
    spread, aligned = collapse.log_distances(centred), collapse.alignment(weight, centred)
    yield Reading("gnc2_mean", spread.mean, split=split)
    yield Reading("gnc2_variance", spread.variance, split=split)
    yield Reading("unc3_mean", aligned.mean, split=split)
    yield Reading("unc3_variance", aligned.variance, split=split)


def _theory(moments: ClassMoments, split: str, layers: int, decays: tuple[float, float]) -> Iterator[Reading]:
    counts = tuple(int(each) for each in moments.counts.tolist())
    expected = DeepLinear(layers, *decays, counts).mean_norms()
    norms = torch.linalg.vector_norm(moments.means, dim=1).tolist()
    for label, norm, theory in zip(moments.classes.tolist(), norms, expected, strict=True):
        yield Reading("class_mean_norm", norm, split=split, group=str(label))
        yield Reading("class_mean_norm_theory", theory, split=split, group=str(label))


def _along_depth(layers: LayerMoments) -> Iterator[Finding]:
    if not layers.labelled:
        yield Skip("targets are not one class each: no collapse by depth")
        return
    for name, reason in layers.missing.items():
        yield Skip(reason, part=name)
    for split, by_layer in layers.splits.items():
        values: list[float] = []
        for place, (name, moments) in enumerate(by_layer.items()):
            if not moments.finite:
                yield Skip("its outputs are NaN or infinite", part=name)
                return
            values.append(collapse.fuzziness(moments))
            yield Reading("fuzziness", values[-1], split=split, part=name, depth=place)
            yield Reading("nc1_pinv", collapse.nc1_pinv(moments), split=split, part=name, depth=place)
            yield Reading("cdnv", collapse.cdnv(moments), split=split, part=name, depth=place)
        places = tuple(float(place) for place in range(len(values)))
        yield Curve("fuzziness_by_depth", places, tuple(values), split=split)
        if len(values) > 1 and all(0 < each < math.inf for each in values):
            yield Reading("fuzziness_ratio", math.exp(_slope([math.log(each) for each in values])), split=split)


def _slope(values: list[float]) -> float:
    """The slope of the least-squares line through values at 0, 1, 2 and so on."""
    middle = (len(values) - 1) / 2
    weights = [place - middle for place in range(len(values))]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(w * w for w in weights)
