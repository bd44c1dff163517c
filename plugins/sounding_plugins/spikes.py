"""Spikes of the loss and of the gradient norm, in the training log; between sparse checkpoints they are invisible."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import History, Logs

Floats: TypeAlias = NDArray[np.float64]

_TO_SIGMA = 1.4826  # median absolute deviation → standard deviation, for a normal distribution
_FEWEST = 10  # rows that a median is taken of; where the log is sparse, the window reaches further back for them
_BLOCK = 4096  # rows whose windows are sorted together
_MOST_DECIMALS = 15
_MOST = 200  # spikes of one series that are told one by one
_SOURCE = "trailing median and MAD (Leys et al. 2013, J. Exp. Soc. Psychol. 49, 764: the robust z-score)"
_READ = (("loss.loss", "train"), ("loss.loss", "heldout"), ("gradient_norm.total", ""))  # without a log


@dataclass(frozen=True)
class _Spike:
    first: float
    height: float
    z: float
    length: float
    recovered: bool


@plugin(
    version=1,
    over="run",
    metrics=[
        Metric("count", unit="count", meaning="spikes in the series", source=_SOURCE),
        Metric("first", unit="update", meaning="first row above both thresholds of spike `index`", source=_SOURCE),
        Metric("height", unit="1", meaning="highest value of the spike over the median before it", source=_SOURCE),
        Metric("height_z", unit="1", meaning="height of the spike in robust standard deviations", source=_SOURCE),
        Metric(
            "recovery",
            unit="update",
            meaning="updates until the value is back within one robust standard deviation above that median; "
            "unresolved: not back yet, the value is how long so far",
            source="definition",
        ),
        Metric("nonfinite", unit="count", meaning="rows of the series that are NaN or infinite", source="definition"),
        Metric("spacing", unit="update", meaning="median distance between rows: what is shorter is not seen",
               source="definition"),
    ],
)  # fmt: skip
def spikes(
    logs: Logs,
    history: History,
    *,
    loss_keys: tuple[str, ...] = ("loss", "train_loss", "train/loss", "training_loss", "loss/train"),
    gradient_keys: tuple[str, ...] = ("grad_norm", "gradient_norm", "train/grad_norm", "train/gradient_norm"),
    window: float = 200.0,
    z: float = 6.0,
    loss_ratio: float = 1.1,
    gradient_ratio: float = 2.0,
) -> Iterator[Finding]:
    """Sudden rises of the loss and of the gradient norm: where, how high, and how long they last.

    A row is a spike when it exceeds the median of the last `window` updates by `z` robust standard deviations and by
    the factor `loss_ratio` (or `gradient_ratio`). The first of the keys that the log has is used.
    """
    found = [(logs.first(loss_keys), loss_ratio), (logs.first(gradient_keys), gradient_ratio)]
    logged = [(each, ratio) for each, ratio in found if each is not None]
    for (key, series), ratio in logged:
        yield from _told(key, series.updates, series.values, window, z, ratio)
    if not logged:
        yield from _from_readings(history, window, z, {"loss": loss_ratio, "gradient_norm": gradient_ratio})


def _from_readings(history: History, window: float, z: float, ratios: dict[str, float]) -> Iterator[Finding]:
    """What checkpoints can tell, which is little."""
    courses = [(metric, split, history.course(metric, split=split)) for metric, split in _READ]
    if not any(course is not None for _, _, course in courses):
        yield Skip("no training log with a loss or a gradient norm, and no readings of them (`logs`, `loss_keys`)")
    for metric, split, course in courses:
        if course is None:
            continue
        updates = course.steps.astype(np.float64) if np.isnan(course.updates).any() else course.updates
        part = f"{metric} ({split})" if split else metric
        yield Skip("from checkpoints alone: spikes between sparse checkpoints are invisible", part)
        yield from _told(part, updates, course.values, window, z, ratios[metric.partition(".")[0]])


def _told(part: str, updates: Floats, values: Floats, window: float, z: float, ratio: float) -> Iterator[Finding]:
    finite = np.isfinite(values)
    yield Reading("nonfinite", int((~finite).sum()), part=part)
    updates, values = updates[finite], values[finite]
    if len(values) <= _FEWEST:
        yield Skip(f"{len(values)} finite rows; a spike needs more than {_FEWEST} before it to stand out from", part)
        return
    if values.min() < 0:
        yield Skip("some values are negative: a ratio to their median means nothing", part)
        return
    yield Reading("spacing", float(np.median(np.diff(updates))), part=part)
    spikes = list(_spikes(updates, values, window, z, ratio))
    yield Reading("count", len(spikes), part=part)
    for number, spike in enumerate(spikes[:_MOST]):
        yield Reading("first", spike.first, part=part, index=number)
        yield Reading("height", spike.height, part=part, index=number)
        yield Reading("height_z", spike.z, part=part, index=number)
        quality: Any = "ok" if spike.recovered else "unresolved"
        yield Reading("recovery", spike.length, part=part, index=number, quality=quality)
    if len(spikes) > _MOST:
        yield Skip(f"{len(spikes)} spikes, of which the first {_MOST} are told one by one", part)


def _spikes(updates: Floats, values: Floats, window: float, z: float, ratio: float) -> Iterator[_Spike]:
    """Spikes in order; rows of one spike begin no other."""
    rows = np.arange(len(values))
    begins = np.minimum(np.searchsorted(updates, updates - window), rows - _FEWEST).clip(0)
    medians = _trailing_medians(values, begins)
    floor = _quantum(values) / 2
    row = _FEWEST
    for candidate in np.flatnonzero((values > ratio * medians) & (rows >= _FEWEST)):
        if candidate < row:
            continue
        median = medians[candidate]
        spread = np.median(np.abs(values[begins[candidate] : candidate] - median))
        sigma = _TO_SIGMA * max(float(spread), floor)
        if values[candidate] <= median + z * sigma:
            continue
        back = np.flatnonzero(values[candidate:] <= median + sigma)
        row = int(candidate + back[0]) if len(back) else len(values)
        peak = float(values[candidate:row].max())
        last = min(row, len(values) - 1)
        yield _Spike(
            float(updates[candidate]),
            peak / float(median) if median > 0 else float("inf"),
            (peak - float(median)) / sigma if sigma > 0 else float("inf"),
            float(updates[last] - updates[candidate]),
            bool(len(back)),
        )


def _trailing_medians(values: Floats, begins: NDArray[np.int64]) -> Floats:
    """The median of `values[begins[i]:i]` for every i from the first that has `_FEWEST` rows; NaN before."""
    medians = np.full(len(values), np.nan)
    for start in range(_FEWEST, len(values), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(values)))
        counts = rows - begins[rows]
        places = begins[rows, None] + np.arange(counts.max())
        windows = np.where(places < rows[:, None], values[np.minimum(places, len(values) - 1)], np.inf)
        windows.sort(axis=1)
        halves = np.stack([(counts - 1) // 2, counts // 2], axis=1)
        medians[rows] = np.take_along_axis(windows, halves, axis=1).mean(axis=1)
    return medians


def _quantum(values: Floats) -> float:
    """The resolution the log was written with: its last decimal, or a smaller distance between two of its values."""
    decimals = next((k for k in range(_MOST_DECIMALS) if np.array_equal(np.round(values, k), values)), _MOST_DECIMALS)
    gaps = np.diff(np.unique(values))
    return min(10.0**-decimals, float(gaps.min()) if len(gaps) else 1.0)
