"""Whether what a plugin yielded is what it declared."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

from sounding.contract import Metric
from sounding.errors import SoundingError
from sounding.measuring.collecting import AnyPlugin
from sounding.measuring.options import suggest
from sounding.records import Curve, Finding, Quality, Reading, Skip

_NUMBERS = ("value", "low", "high", "stderr")
_WHOLE = ("depth", "index")
_TEXTS = ("metric", "part", "split", "kind", "group")


def checked(plugin: AnyPlugin, yielded: object) -> list[Finding]:
    """Everything a plugin yielded, numbers as plain floats.

    Raises SoundingError naming the first thing that is no finding, of an undeclared metric, of the wrong kind, or
    yielded twice. Values that are not finite are allowed.
    """
    if isinstance(yielded, str) or not isinstance(yielded, Iterable):
        raise SoundingError(f"returned {_what(yielded)}, expected to `yield` Reading, Curve or Skip")
    metrics = {metric.name: metric for metric in plugin.metrics}
    findings = [_checked(metrics, item) for item in yielded]
    seen: set[object] = set()
    for each in findings:
        if isinstance(each, Skip):
            continue
        place = (
            replace(each, value=None, label=None, low=None, high=None, stderr=None, quality="ok")
            if isinstance(each, Reading)
            else replace(each, x=(), y=(), quality="ok")
        )
        if place in seen:
            raise SoundingError(
                f"yielded `{each.metric}` twice for {_place(each)}; tell them apart by `part` or `index`"
            )
        seen.add(place)
    return findings


def not_finite(findings: Iterable[Finding]) -> str:
    """Which readings are NaN or infinite, in words; empty when none is."""
    odd = [each for each in findings if isinstance(each, Reading) and not math.isfinite(each.value or 0.0)]
    if not odd:
        return ""
    more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
    return f"not finite: {odd[0].metric} of {_place(odd[0])} is {odd[0].value}{more}"


def _checked(metrics: dict[str, Metric], item: object) -> Finding:
    if isinstance(item, Skip):
        return item
    if not isinstance(item, Reading | Curve):
        raise SoundingError(f"yielded {_what(item)}, expected Reading, Curve or Skip")
    _require_texts(item)
    if item.metric not in metrics:
        known = ", ".join(metrics)
        raise SoundingError(
            f"yielded the metric `{item.metric}`, which it does not declare{suggest(item.metric, metrics)} "
            f"Declared: {known}"
        )
    kind = metrics[item.metric].kind
    if isinstance(item, Curve):
        if kind != "curve":
            raise SoundingError(f"yielded a Curve for `{item.metric}`, which is declared as a {kind}")
        return _curve(item)
    if kind == "curve":
        raise SoundingError(f"yielded a Reading for `{item.metric}`, which is declared as a curve")
    return _reading(item, kind)


def _require_texts(item: Reading | Curve) -> None:
    for name in _TEXTS:
        value = getattr(item, name, "")
        if not isinstance(value, str):
            raise SoundingError(f"yielded `{item.metric}` with {name} {_what(value)}, expected a text")
    if item.quality not in get_args(Quality):
        known = ", ".join(get_args(Quality))
        raise SoundingError(f"yielded `{item.metric}` with quality {item.quality!r}, expected one of {known}")


def _reading(item: Reading, kind: str) -> Reading:
    needed = item.label if kind == "label" else item.value
    if needed is None or (kind == "label" and not isinstance(item.label, str)):
        field = "label" if kind == "label" else "value"
        raise SoundingError(f"yielded `{item.metric}` ({kind}) of {_place(item)} without a proper `{field}`")
    numbers: dict[str, Any] = {name: _number(item, name) for name in _NUMBERS}
    whole: dict[str, Any] = {name: _number(item, name) for name in _WHOLE}
    whole = {name: None if value is None else int(value) for name, value in whole.items()}
    return replace(item, **numbers, **whole)


def _number(item: Reading, name: str) -> float | None:
    value = getattr(item, name)
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SoundingError(
            f"yielded `{item.metric}` of {_place(item)} with {name} {_what(value)}, expected a number"
        ) from error


def _curve(item: Curve) -> Curve:
    if not isinstance(item.x, Sequence | Iterable) or len(item.x) != len(item.y):
        raise SoundingError(f"yielded the curve `{item.metric}` with {len(item.x)} x and {len(item.y)} y")
    return replace(item, x=tuple(map(float, item.x)), y=tuple(map(float, item.y)))


def _place(item: Reading | Curve) -> str:
    where = [f"`{item.part}`" if item.part else "the whole"]
    if item.split:
        where.append(f"split {item.split}")
    return ", ".join(where)


def _what(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
