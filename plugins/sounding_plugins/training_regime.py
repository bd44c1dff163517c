"""Where a network with scale-invariant weights is bound: its regime, and its jumps under weight decay."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import History, Logs, Series
from sounding.passes.invariant_path import InvariantPath
from sounding.periods import Destabilisation, destabilisations, rhythm_of
from sounding.records import Quality

Floats: TypeAlias = NDArray[np.float64]

_KODRYAN = "Kodryan et al. 2022, arXiv:2209.03695"
_LOBACHEVA = "Lobacheva et al. 2021, arXiv:2106.15739"
_GAS = "ideal-gas law of SGD with weight decay, arXiv:2511.07308"
_FEWEST = 8  # turns that a regime is judged from, a quarter of them early and a quarter late
_FELL, _KEPT = 0.5, 0.7  # rotation ratio: below the one the weights come to rest, above the other they do not
_RANDOM = 0.5  # share of the loss of random directions from which on nothing is learned
_RESOLVED = 8.0  # times what rounding makes of an early turn, below which its fall to a half would not be seen
_INTERVALS, _PERIODIC = 3, 0.3  # intervals that make a period, and their standard deviation over their mean
_SAMPLES = 4.0  # checkpoints that each interval needs
_PACE = 0.25  # share of decay's own pace below which a norm does not decay but wanders
_RAISED = 1.1  # factor of the learning rate that explains a rise of the norm by itself
_STEADY, _NOISY = 0.05, 1.25  # relative spread of a norm at rest; factor of its rotation about the balance's
_EFOLDINGS = 2.0  # of the weights by decay, for which the norm must have been at rest


def _m(name: str, unit: str, meaning: str, source: str = _KODRYAN) -> Metric:
    return Metric(name, unit, meaning, source, "label" if unit == "label" else "scalar")


@plugin(
    version=2,
    over="run",
    metrics=[
        _m("regime", "label", "convergence, chaotic equilibrium, divergence, not enough checkpoints, or unresolved"),
        _m("judged_from", "update", "from here on the effective learning rate is near its last, and the regime judged"),
        _m("cosine_early", "1", "mean cosine between neighbouring checkpoints in the first quarter judged"),
        _m("cosine_late", "1", "the same in the last quarter"),
        _m("rotation_ratio", "1", "(1 - cosine_late)/(1 - cosine_early): falls to 0 in convergence, else stays near 1"),
        _m("loss_ratio", "1", "loss in the last quarter over that of random directions"),
        _m("spacing", "update", "usual distance of checkpoints: what is shorter is not seen", "definition"),
        _m("periodicity", "label", "periodic, aperiodic, too few, or none: how destabilisations follow", _LOBACHEVA),
        _m("destabilisations", "count", "rises of the norm after a decline at the pace of weight decay", _LOBACHEVA),
        _m("destabilisation", "update", "where the norm begins to rise in jump `index`", _LOBACHEVA),
        _m("destabilisation_length", "update", "until it declines again; not told before it does", _LOBACHEVA),
        _m("elr_peak", "1/weight²", "effective learning rate at which jump `index` begins", _LOBACHEVA),
        _m("elr_trough", "1/weight²", "effective learning rate at which it ends", _LOBACHEVA),
        _m("interval", "update", "from the beginning of the jump before to that of jump `index`", _LOBACHEVA),
        _m("predicted_interval", "update", "ln(peak/trough before it)/(2r), the time of decay alone", _LOBACHEVA),
        _m("period", "update", "mean interval", _LOBACHEVA),
        _m("predicted_period", "update", "mean predicted interval", _LOBACHEVA),
        _m("period_variation", "1", "standard deviation of the intervals over their mean", _LOBACHEVA),
        _m("temperature", "loss", "decay times |w|² per direction across the weights, at rest under SGD", _GAS),
    ],
)  # fmt: skip
def training_regime(
    invariant_path: InvariantPath,
    history: History,
    logs: Logs,
    *,
    loss_keys: tuple[str, ...] = ("loss", "train_loss", "train/loss", "training_loss", "loss/train"),
    random_loss: float = 0.0,
    elr_factor: float = 1.5,
    rise: float = 0.1,
) -> Iterator[Finding]:
    """Regime of training of the scale-invariant weights, and the destabilisations that weight decay brings about.

    The regime is judged where the effective learning rate is within `elr_factor` of its last. Random directions have
    the loss `random_loss` (0: the first that is known). A jump is a rise of the log of the norm by `rise`.
    """
    path = invariant_path
    if path.lost:
        yield Skip(f"at {path.lost} checkpoints the weights are zero, NaN or infinite: these are left out")
    if not path.counted:
        yield Skip("how many updates the checkpoints are apart is not known: their steps are taken for updates")
    if len(path.times) > 1:
        yield Reading("spacing", float(np.median(np.diff(path.times))))
    yield from _regime(path, history, logs.first(loss_keys), random_loss, elr_factor)
    yield from _destabilised(path, rise)
    yield from _temperature(path, history)


# --- regime ---------------------------------------------------------------------------------------------------------


def _regime(
    path: InvariantPath, history: History, logged: tuple[str, Series] | None, random: float, factor: float
) -> Iterator[Finding]:
    first = path.settled(factor)
    turns = path.between(first, len(path.times)).even_turns
    if len(turns) < _FEWEST:
        where = (
            f" since {path.times[first]:.0f}, from when on its effective learning rate is near its last"
            if first
            else ""
        )
        yield Skip(f"{len(turns)} turns between evenly spaced checkpoints{where}; a regime needs {_FEWEST}")
        yield Reading("regime", label="not enough checkpoints", quality="unresolved")
        return
    quarter = len(turns) // 4
    early, late = float(turns[:quarter].mean()), float(turns[-quarter:].mean())
    loss = _loss(history, logged, float(path.times[first]), random)
    yield Reading("judged_from", float(path.times[first]))
    yield Reading("cosine_early", 1.0 - early)
    yield Reading("cosine_late", 1.0 - late)
    if early > 0.0:
        yield Reading("rotation_ratio", late / early)
    if loss is not None:
        yield Reading("loss_ratio", loss)
    if not early > _RESOLVED * path.floor:
        label, reason = "", "the weights turn less between checkpoints than their stored type resolves"
    else:
        label, reason = _verdict(late / early, loss)
    if reason:
        yield Skip(reason)
    yield Reading("regime", label=label or "unresolved", quality="ok" if label else "unresolved")


def _loss(history: History, logged: tuple[str, Series] | None, since: float, random: float) -> float | None:
    """The loss in the last quarter since then, over that of random directions; None where it is not known."""
    course = history.course("loss.loss", split="train")
    if logged is not None:
        times, values = logged[1].updates, logged[1].values
    elif course is not None:
        known = np.isfinite(course.updates).all()
        times, values = (course.updates if known else course.steps.astype(np.float64)), course.values
    else:
        return None
    finite = np.isfinite(values)
    times, values = times[finite], values[finite]
    late = values[times >= since + 0.75 * (times[-1] - since)] if len(times) else values
    reference = random or (float(values[0]) if len(values) else 0.0)
    return float(np.median(late)) / reference if len(late) and reference > 0.0 else None


def _verdict(ratio: float, loss: float | None) -> tuple[str, str]:
    """The regime, or why it cannot be told, from how much slower weights turn than early and how much is learned."""
    if loss is not None and loss >= _RANDOM:
        if ratio > _FELL:
            return "divergence", ""
        return "", "the weights come to rest at a loss near that of random directions: that is none of the regimes"
    if ratio <= _FELL:
        return "convergence", ""
    if ratio < _KEPT:
        return "", f"the weights turn {ratio:.2f} times as fast as early: neither at rest nor as before"
    if loss is None:
        return "", "without a loss, chaotic equilibrium and divergence look alike (`logs`, the plugin `loss`)"
    return "chaotic equilibrium", ""


# --- destabilisations -----------------------------------------------------------------------------------------------


def _destabilised(path: InvariantPath, rise: float) -> Iterator[Finding]:
    jumps = [each for each in destabilisations(path.times, path.norms, path.decays, rise) if not each.pace < _PACE]
    for each in jumps:
        if _driven(path, each):
            yield Skip(f"the norm rose from {each.begin:.0f} on, with the learning rate: no destabilisation")
    jumps = [each for each in jumps if not _driven(path, each)]
    if not np.isfinite(path.decays).any():
        yield Skip("the rate of weight decay is not known, so no interval is predicted (`effective_learning_rate`)")
    yield Reading("destabilisations", len(jumps))
    rhythm = rhythm_of([each.begin for each in jumps])
    quality: Quality = "ok"
    usual = rhythm.mean if rhythm else min((each.decline for each in jumps), default=math.inf)
    if jumps and float(np.median(np.diff(path.times))) > usual / _SAMPLES:
        quality = "unresolved"
        yield Skip(f"undersampled: fewer than {_SAMPLES:g} checkpoints from jump to jump, and some may be missed")
    label = "none" if not jumps else "too few"
    if len(jumps) > _INTERVALS and rhythm is not None:
        label = "periodic" if rhythm.variation < _PERIODIC else "aperiodic"
    yield Reading("periodicity", label=label, quality="unresolved" if label == "too few" else quality)
    yield from (replace(each, quality=quality) for each in _jumps(path, jumps))
    if rhythm is not None:
        yield Reading("period", rhythm.mean, stderr=rhythm.stderr, quality=quality)
        yield Reading("period_variation", rhythm.variation, quality=quality)
        predicted = float(np.mean([each.predicted for each in jumps[1:]]))
        if math.isfinite(predicted):
            yield Reading("predicted_period", predicted, quality=quality)


def _driven(path: InvariantPath, of: Destabilisation) -> bool:
    return bool(path.rates[of.jump.top] > _RAISED * path.rates[of.jump.bottom])


def _jumps(path: InvariantPath, jumps: list[Destabilisation]) -> Iterator[Reading]:
    """What is read off each jump; the last may not be over."""
    elr = path.elr
    for index, each in enumerate(jumps):
        yield Reading("destabilisation", each.begin, index=index)
        if each.jump.over:
            yield Reading("destabilisation_length", each.length, index=index)
        if np.isfinite(path.rates[[each.jump.bottom, each.jump.top]]).all():
            yield Reading("elr_peak", float(elr[each.jump.bottom]), index=index)
            yield Reading("elr_trough", float(elr[each.jump.top]), index=index)
        if index:
            yield Reading("interval", each.begin - jumps[index - 1].begin, index=index)
        if math.isfinite(each.predicted):
            yield Reading("predicted_interval", each.predicted, index=index)


# --- temperature ----------------------------------------------------------------------------------------------------


def _temperature(path: InvariantPath, history: History) -> Iterator[Finding]:
    """λ|w|²/(d-1) where the norm is at rest between noise and decay; otherwise why there is none."""
    rate = float(path.decays[-1]) if len(path.decays) else math.nan
    if path.group is None or path.group.kind != "sgd" or not path.counted or not rate > 0.0:
        yield Skip("no temperature: it needs updates of torch's SGD with weight decay, one group for all these weights")
        return
    first = int(np.searchsorted(path.times, path.times[-1] - _EFOLDINGS / rate, side="right")) - 1
    last = path.between(max(first, 0), len(path.times))
    logs, constant = np.log(last.norms), np.ptp(last.rates) <= 1e-3 * last.rates[-1]
    if first < 0 or len(logs) < _FEWEST:
        yield Skip(f"no temperature: it takes {_EFOLDINGS / rate:.0f} updates of decay, and {_FEWEST} checkpoints")
    elif not constant:
        yield Skip("no temperature: the learning rate was not the same all the time")
    elif not np.ptp(logs) <= _STEADY:
        yield Skip(f"no temperature: the norm is not at rest, it varied by {math.expm1(float(np.ptp(logs))):.0%}")
    elif not 1 / _NOISY <= (distance := _distance(path, history, float(last.times[0]))) <= _NOISY:
        yield Skip(f"no temperature: the weights turn {distance:.2g} times as far as noise would have them turn")
    elif path.freedom > 0:
        values = path.group.weight_decay * last.norms**2 / path.freedom
        error = float(values.std()) / math.sqrt(max(1.0, 2.0 * _EFOLDINGS))
        yield Reading("temperature", float(values.mean()), stderr=error)


def _distance(path: InvariantPath, history: History, since: float) -> float:
    """Median of `rotational_equilibrium`'s distances since then; NaN without any."""
    courses = [history.course("rotational_equilibrium.distance", part) for part in path.parts]
    values = [each.values[each.updates >= since] for each in courses if each is not None]
    return float(np.median(np.concatenate(values))) if any(len(each) for each in values) else math.nan
