"""Where growing logits lead: when a run's attention and output logits reach a dangerous level."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.extrapolation import growth
from sounding.passes import Course, History, Line

_WORTSMAN = "Wortsman et al. 2023, arXiv:2309.14322, who foretell instability from attention logits above 10⁴"
_FIELLER = "least squares on the logarithm; interval: Fieller 1954, residuals' autocorrelation allowed for"
_ATTENTION = ("attention_logits.max_abs_logit", "logit_scale.attention_logit_bound")
_OUTPUT = ("output_logits.max_abs_logit", "logit_scale.output_logit_bound")
_FEWEST = 6  # checkpoints


@plugin(
    version=1,
    over="run",
    metrics=[
        Metric("verdict", "label", "reached, growing, not growing, or unresolved", _WORTSMAN, "label"),
        Metric("danger_update", "update", "update at which the level is reached if growth goes on, with an interval",
               _FIELLER),
        Metric("growth_exponent", "1", "exponent of the series as a power law of updates, over the window", _FIELLER),
        Metric("level", "logit", "the dangerous level", _WORTSMAN),
        Metric("latest", "logit", "the series' last value", "definition"),
        Metric("checkpoints", "count", "checkpoints in the window", "definition"),
        Metric("horizon", "update", "the last of them", "definition"),
    ],
)  # fmt: skip
def logit_growth(
    history: History,
    *,
    attention_danger: float = 1e4,
    output_danger: float = 1e3,
    window: float = 0.5,
    reach: float = 10.0,
    confidence: float = 0.95,
) -> Iterator[Finding]:
    """Extrapolation of measured and bounded logits to a dangerous level, along the run.

    The last `window` of the run's updates is fitted. A level that lies, or whose interval of this `confidence` ends,
    beyond `reach` times the updates made so far is left unresolved.
    """
    found = False
    for line, course in history.items():
        level = attention_danger if line.metric in _ATTENTION else output_danger if line.metric in _OUTPUT else None
        if level is None or line.index is not None or (line.part and line.metric in _ATTENTION):
            continue
        found = True
        yield from _of_course(line, course, level, window, reach, confidence)
    if not found:
        yield Skip("no readings of attention_logits, output_logits or logit_scale of the whole network yet")


def _of_course(
    line: Line, course: Course, level: float, window: float, reach: float, confidence: float
) -> Iterator[Finding]:
    place: Any = {"part": line.metric, "split": line.split, "group": line.part}
    times = course.updates if np.isfinite(course.updates).all() else course.steps.astype(np.float64)
    usable = np.isfinite(course.values) & (course.values > 0) & (times > 0)
    times, values = times[usable], course.values[usable]
    recent = times >= (1 - window) * times[-1] if len(times) else usable[usable]
    if recent.sum() < _FEWEST:
        yield Skip(
            f"{int(recent.sum())} checkpoints in the last part of the run; {_FEWEST} are needed", part=line.metric
        )
        return
    times, values = times[recent], values[recent]
    last, now = float(values[-1]), float(times[-1])
    for metric, value in (("level", level), ("latest", last), ("checkpoints", len(times)), ("horizon", now)):
        yield Reading(metric, value, **place)
    found = growth(times, values, level, confidence)
    error = found.exponent_error if math.isfinite(found.exponent_error) else None
    yield Reading("growth_exponent", found.exponent, **place, stderr=error)
    if last >= level:
        yield Reading("verdict", label="reached", **place)
    elif found.falls:
        yield Reading("verdict", label="not growing", **place)
    elif found.at is None or found.high is None or found.high > reach * now:
        yield Reading("verdict", label="unresolved", **place, quality="unresolved")
    else:
        yield Reading("verdict", label="growing", **place)
        yield Reading("danger_update", found.at, **place, low=found.low, high=found.high)
