"""The largest eigenvalue of mini-batch Hessians over the batch size, and the learning rates that follow."""

import math
from collections.abc import Generator, Iterator, Sequence

from sounding import Curve, Finding, Metric, Reading, Skip, plugin
from sounding.curvature.batches import Inflation, TooLarge, inflation_of
from sounding.curvature.conditions import CONDITIONS
from sounding.estimates import mean_of
from sounding.passes import Around
from sounding.records import Quality

_GRANZIOL = (
    "Granziol et al. 2022, arXiv:2006.09092, with the slope fitted to measured batches and not from assumed noise"
)

_NOT_FINITE = "a product with a batch's Hessian is NaN or infinite"


@plugin(
    version=2,
    cost="curvature",
    metrics=[
        Metric("lambda_max", "loss/weight²", "mean over batches of the Hessian's largest eigenvalue; group states B",
               "definition; standard error over batches, without replacement"),
        Metric("lambda_max_full", "loss/weight²", "largest eigenvalue of the whole subset's Hessian", "definition"),
        Metric("inflation", "loss/weight²", "c of lambda_max(B) = lambda_max_full + c (1/B - 1/N)", _GRANZIOL),
        Metric("misfit", "1", "root mean square of the fit's relative residuals over batch sizes", "definition"),
        Metric("max_learning_rate_sgd", "weight²/loss", "2 / lambda_max(B) by the fit, by B", _GRANZIOL, kind="curve"),
        Metric("relative_learning_rate_adam", "1", "root of max_learning_rate_sgd(B) over that of the smallest B",
               _GRANZIOL, kind="curve"),
        CONDITIONS,
    ],
)  # fmt: skip
def batch_hessian(
    surroundings: Around,
    *,
    sizes: tuple[int, ...] = (16, 32, 64, 128),
    draws: int = 8,
    tolerance: float = 1e-2,
    worst_misfit: float = 0.2,
) -> Iterator[Finding]:
    """λ_max of mini-batch Hessians at several batch sizes, its growth towards small batches, and what it allows.

    BatchNorm normalises by each batch. A fit with a misfit above `worst_misfit` is unresolved.
    """
    full = None
    try:
        whole = _lambda_max(surroundings, surroundings.examples, 1, tolerance)
    except TooLarge as reason:  # of BatchNorm's batches, which cannot be cut: smaller ones may fit
        yield Skip(f"lambda_max_full, and what is fitted to it: {reason}")
    else:
        if whole is None:
            yield Skip(_NOT_FINITE)
            return
        full = whole[0][0]
        yield Reading("conditions", label=surroundings.batch_conditions(surroundings.examples, 1), split="train")
        yield Reading("lambda_max_full", full, split="train", quality=whole[1])
    means: dict[int, float] = {}
    for size in sorted(sizes):
        mean = yield from _of_batches(surroundings, size, draws, tolerance)
        if mean is not None:
            means[size] = mean
    if full is None:
        return
    fit = inflation_of(full, surroundings.examples, list(means), list(means.values()))
    if fit is None:
        yield Skip("inflation: it takes two batch sizes with positive eigenvalues")
        return
    yield from _implied(fit, list(means), "ok" if fit.misfit <= worst_misfit else "unresolved")


def _of_batches(
    surroundings: Around, size: int, draws: int, tolerance: float
) -> Generator[Finding, None, float | None]:
    """What batches of one size have; returns their mean, None where there is none."""
    if 2 * size > surroundings.examples:
        yield Skip(f"batches of {size}: the subset has {surroundings.examples} examples, and two batches are needed")
        return None
    try:
        found = _lambda_max(surroundings, size, draws, tolerance)
    except TooLarge as reason:
        yield Skip(f"batches of {size}: {reason}")
        return None
    if found is None:
        yield Skip(f"batches of {size}: {_NOT_FINITE}")
        return None
    mean, group = mean_of(found[0]), f"B={size}"
    yield Reading("conditions", label=surroundings.batch_conditions(size, draws), split="train", group=group)
    yield Reading("lambda_max", mean.value, split="train", group=group, stderr=mean.error, quality=found[1])
    return mean.value


def _implied(fit: Inflation, sizes: Sequence[int], quality: Quality) -> Iterator[Finding]:
    yield Reading("inflation", fit.slope, split="train", stderr=fit.stderr, quality=quality)
    yield Reading("misfit", fit.misfit, split="train")
    grid = [size for size in (2**power for power in range(32)) if sizes[0] <= size <= fit.examples]
    if any(fit.at(size) <= 0.0 for size in grid):
        yield Skip("max_learning_rate_sgd: the fit is not positive everywhere")
        return
    rates = [2.0 / fit.at(size) for size in grid]
    x = tuple(float(size) for size in grid)
    yield Curve("max_learning_rate_sgd", x, tuple(rates), split="train", quality=quality)
    roots = tuple(math.sqrt(rate / rates[0]) for rate in rates)
    yield Curve("relative_learning_rate_adam", x, roots, split="train", quality=quality)


def _lambda_max(surroundings: Around, size: int, draws: int, tolerance: float) -> tuple[list[float], Quality] | None:
    """The largest eigenvalue of each batch, and whether all converged; None where a product is not finite."""
    found = surroundings.in_batches(size).each(draws, lambda batch: batch.lambda_max(tolerance))
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return None
    return [each.value for each in known], "ok" if all(each.converged for each in known) else "unconverged"
