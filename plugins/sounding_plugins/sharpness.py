"""How curved the loss is: the ends of the Hessian's spectrum, its traces, and how near training is to instability."""

import math
from collections.abc import Iterator

import torch

from sounding import Checkpoint, Finding, Metric, Reading, Skip, Unavailable, plugin
from sounding.curvature.conditions import CONDITIONS, conditions_of
from sounding.curvature.curved import Curved, Facts
from sounding.curvature.eigenvalues import Eigenvalue, Extremes
from sounding.curvature.objective import Statistics
from sounding.passes import CurvatureRun, Kind, Solved, StoredOptimizer, border_of, rates_of
from sounding.records import Quality

_LANCZOS = "Lanczos with full reorthogonalisation; bounds: Parlett 1998, sec. 11"
_PROBES = "Hutchinson 1990 across the Lanczos basis (Gambhir, Stathopoulos and Orginos 2017); se over probes"
_EDGE = "Cohen et al. 2021 (GD and momentum) and 2022 (Adam); kind tells the border, group the criterion"
_TRAINING = "hessian, bn=train"
_NOT_FINITE = "a product with it is NaN or infinite"


@plugin(
    version=3,
    cost="curvature",
    metrics=[
        Metric("lambda_max", "loss/weight²", "largest eigenvalue, not largest magnitude; part: of a block", _LANCZOS),
        Metric("eigenvalue", "loss/weight²", "the largest eigenvalues in turn, by index", _LANCZOS),
        Metric("lambda_min", "loss/weight²", "smallest eigenvalue", _LANCZOS),
        Metric("negative_curvature_ratio", "1", "-lambda_min / lambda_max; 0 where no eigenvalue is negative",
               "definition"),
        Metric("trace", "loss/weight²", "sum of all eigenvalues", _PROBES),
        Metric("frobenius", "loss/weight²", "root of the sum of squared eigenvalues", _PROBES),
        Metric("trace_ratio", "1", "trace / lambda_max: how many eigenvalues of that size make up the trace",
               "Tropp 2015, sec. 7 (intrinsic dimension), where no eigenvalue is negative"),
        Metric("outliers", "count", "eigenvalues above the widest relative gap, where it is clear",
               "Sagun et al. 2017; a gap is clear from a factor of 2"),
        Metric("outlier_gap", "1", "ratio of the eigenvalues on both sides of the widest gap", "definition"),
        Metric("outlier_share", "1", "sum of the outliers over the trace", "definition"),
        Metric("gradient_cosine", "1", "|cosine| of the gradient and an eigenvector, by index", "definition"),
        Metric("gradient_alignment", "1", "share of the squared gradient in the top eigenvectors' span",
               "Gur-Ari, Roberts and Dyer 2018"),
        Metric("stability_threshold", "loss/weight²", "curvature above which full-batch steps grow", _EDGE),
        Metric("stability_ratio", "1", "largest eigenvalue that the optimizer feels over stability_threshold", _EDGE),
        Metric("criterion", "1", "what the threshold presumes, how training is, and what matrix is felt", _EDGE,
               kind="label"),
        CONDITIONS,
    ],
)  # fmt: skip
def sharpness(
    curvature_run: CurvatureRun,
    stored_optimizer: StoredOptimizer,
    checkpoint: Checkpoint,
    *,
    kinds: tuple[Kind, ...] = ("hessian", "ggn"),
    blocks: tuple[str, ...] = (),
    batch_norm: tuple[Statistics, ...] = ("eval",),
    largest_only: bool = False,
) -> Iterator[Finding]:
    """Spectrum of the Hessian, of its Gauss-Newton part and, if asked for, of the "residual" between the two.

    BatchNorm by running statistics, but in batches as in training for `stability_ratio`; `batch_norm` is by which of
    the two λ_max is told, all else with "eval". `blocks` are patterns of parameters' names, each given its own λ_max.
    `largest_only` leaves all out but λ_max, for large networks.
    """
    try:
        if "eval" in batch_norm:
            yield from _evaluated(curvature_run, kinds, blocks, largest_only=largest_only)
        if "train" in batch_norm:
            yield from _in_training(curvature_run)
        yield from _stability(curvature_run, stored_optimizer, checkpoint)
    except Unavailable as reason:
        yield Skip(str(reason))


def _evaluated(
    run: CurvatureRun, kinds: tuple[Kind, ...], blocks: tuple[str, ...], *, largest_only: bool
) -> Iterator[Finding]:
    if largest_only:
        yield from _largest(run, run.curvature.hessian(), "hessian")
    else:
        for kind in kinds:
            yield from _spectrum(run, kind)
    for block in blocks:
        found = run.largest(run.curvature.hessian(block=block), block=block)
        yield from _value("lambda_max", found.top, kind="hessian", part=block)


def _in_training(run: CurvatureRun) -> Iterator[Finding]:
    """The largest eigenvalue of the function that training sees, batch by batch."""
    try:
        operator = run.curvature.hessian("train")
    except Unavailable as reason:
        yield Skip(f"{_TRAINING}: {reason}")
        return
    if operator.facts.batch_norm == "none":
        yield Skip(f"{_TRAINING}: the network has no BatchNorm, so what is evaluated is what is trained")
        return
    yield from _largest(run, operator, _TRAINING, "train")


def _largest(run: CurvatureRun, operator: Curved, kind: str, mode: Statistics = "eval") -> Iterator[Finding]:
    yield Reading("conditions", label=conditions_of(operator.facts), split="train", kind=kind)
    yield from _value("lambda_max", run.largest(operator, mode).top, kind=kind)


def _spectrum(run: CurvatureRun, kind: Kind) -> Iterator[Finding]:
    solved = run.of(kind)
    if not solved.found.top:
        yield Skip(f"{kind}: {_NOT_FINITE}")
        return
    operator = run.curvature.ggn() if kind == "ggn" else run.curvature.hessian()
    yield Reading("conditions", label=conditions_of(operator.facts), split="train", kind=kind)
    yield from _value("lambda_max", solved.found.top, kind=kind)
    for index, each in enumerate(solved.found.top):
        yield _reading("eigenvalue", each, kind=kind, index=index)
    yield from _negative(solved.found, kind)
    if kind != "residual":
        yield from _sums(solved, kind)
    if kind == "hessian":
        yield from _alignment(run, solved.found)


def _negative(found: Extremes, kind: str) -> Iterator[Finding]:
    largest, smallest = found.top[0], found.bottom[0]
    yield _reading("lambda_min", smallest, kind=kind)
    if largest.value <= 0.0:
        yield Skip(f"{kind}: no eigenvalue is positive, so nothing is compared with the largest")
        return
    low = max(0.0, -(smallest.value + smallest.bound) / largest.value)
    high = max(0.0, -(smallest.value - smallest.bound) / largest.value)
    quality: Quality = "ok" if smallest.converged and largest.converged else "unconverged"
    ratio = max(0.0, -smallest.value / largest.value)
    yield Reading("negative_curvature_ratio", ratio, split="train", kind=kind, low=low, high=high, quality=quality)


def _sums(solved: Solved, kind: str) -> Iterator[Finding]:
    trace, largest = solved.traces.trace, solved.found.top[0]
    yield Reading("trace", trace.value, split="train", kind=kind, stderr=trace.stderr)
    norm = solved.traces.frobenius
    yield Reading("frobenius", norm.value, split="train", kind=kind, stderr=norm.stderr)
    if largest.value > 0.0:
        ratio, error = trace.value / largest.value, trace.stderr / largest.value
        yield Reading("trace_ratio", ratio, split="train", kind=kind, stderr=error, quality=_quality(largest))
    outliers = solved.outliers
    if outliers is None:
        yield Skip(f"outliers, {kind}: no two positive eigenvalues converged")
        return
    yield Reading("outlier_gap", outliers.gap, split="train", kind=kind)
    if not outliers.clear:
        yield Skip(f"outliers, {kind}: no clear gap; the widest is a factor of {outliers.gap:.3g}")
        return
    yield Reading("outliers", outliers.count, split="train", kind=kind)
    if trace.value > 0.0:
        share = outliers.sum / trace.value
        yield Reading("outlier_share", share, split="train", kind=kind, stderr=share * trace.stderr / trace.value)


def _alignment(run: CurvatureRun, found: Extremes) -> Iterator[Finding]:
    known = run.directions()
    gradient = run.curvature.gradient().cpu().double()
    length = float(gradient.norm())
    if known is None or length == 0.0:
        yield Skip("gradient_alignment: the gradient is zero")
        return
    cosines = (known.vectors.double() @ gradient / length).abs()
    for index, (cosine, each) in enumerate(zip(cosines.tolist(), found.top, strict=True)):
        yield Reading("gradient_cosine", cosine, split="train", index=index, quality=_quality(each))
    quality: Quality = "ok" if known.converged else "unconverged"
    yield Reading("gradient_alignment", float(torch.dot(cosines, cosines)), split="train", quality=quality)


def _stability(run: CurvatureRun, stored: StoredOptimizer, checkpoint: Checkpoint) -> Iterator[Finding]:
    optimizer = stored.found
    if optimizer is None:
        yield Skip(f"stability_ratio: {stored.reason}")
        return
    rates = rates_of(optimizer.groups, checkpoint.progress)
    border = border_of(optimizer.groups, rates.values)
    if isinstance(border, str):
        yield Skip(f"stability_ratio: {border}")
        return
    try:
        felt = run.curvature.decayed(run.curvature.hessian("train"))
        felt = run.curvature.preconditioned(felt) if border.preconditioned else felt
        found = run.largest(felt, "train")
    except Unavailable as reason:
        yield Skip(f"stability_ratio: {reason}")
        return
    if not found.top:
        yield Skip(f"stability_ratio: {_NOT_FINITE}")
        return
    yield Reading(
        "criterion", label=_criterion(felt.facts, run.curvature.training_batch, rates.source), kind=border.formula
    )
    certain: Quality = "ok" if rates.certain else "unresolved"
    yield Reading("stability_threshold", border.value, kind=border.formula, quality=certain)
    value, bound = found.top[0].value / border.value, found.top[0].bound / border.value
    yield Reading(
        "stability_ratio", value, split="train", kind=border.formula, group="full-batch criterion",
        low=value - bound, high=value + bound, quality=certain if found.top[0].converged else "unconverged",
    )  # fmt: skip


def _criterion(facts: Facts, size: int, source: str) -> str:
    if not size:
        how = "the size of training's batches is not known"
    elif size >= facts.examples:
        how = f"training's batches of {size} are no smaller than the {facts.examples} examples measured on"
    else:
        how = f"training is stochastic, in batches of {size}, where instability begins at lower curvature"
    by = f"BatchNorm by batches of {facts.batch_size} of {facts.examples} examples; " if facts.batch_size else ""
    of = f"preconditioned by {facts.preconditioner}; " if facts.preconditioner else ""
    return f"full-batch criterion; {how}; {by}{of}weight decay: {facts.weight_decay}; learning rate: {source}"


def _value(metric: str, top: tuple[Eigenvalue, ...], kind: str, part: str = "") -> Iterator[Finding]:
    yield _reading(metric, top[0], kind=kind, part=part) if top else Skip(_NOT_FINITE, part=part)


def _reading(metric: str, each: Eigenvalue, *, kind: str, part: str = "", index: int | None = None) -> Reading:
    low, high = each.value - each.bound, each.value + each.bound
    return Reading(
        metric, each.value, split="train", kind=kind, part=part, index=index, low=low, high=high,
        quality=_quality(each) if math.isfinite(each.value) else "unresolved",
    )  # fmt: skip


def _quality(each: Eigenvalue) -> Quality:
    return "ok" if each.converged else "unconverged"
