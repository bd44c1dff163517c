"""What a plugin yields."""

from dataclasses import dataclass
from typing import TypeAlias

from sounding.records.terms import Quality


@dataclass(frozen=True, slots=True)
class Reading:
    """One number (or label) that a plugin found, with how good it is.

    `part` names what was measured inside the network ("" is the whole); `low` and `high` bound the value;
    `stderr` is its standard error; `quality` says whether the estimator converged.
    """

    metric: str
    value: float | None = None
    label: str | None = None
    part: str = ""
    split: str = ""
    kind: str = ""
    depth: int | None = None
    index: int | None = None
    group: str = ""
    low: float | None = None
    high: float | None = None
    stderr: float | None = None
    quality: Quality = "ok"


@dataclass(frozen=True, slots=True)
class Curve:
    """A function of one variable that a plugin found: a spectrum, a density, a slice. `x` and `y` have equal length."""

    metric: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    part: str = ""
    split: str = ""
    kind: str = ""
    depth: int | None = None
    quality: Quality = "ok"


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a plugin measured nothing, of the whole or of one part."""

    reason: str
    part: str = ""


Finding: TypeAlias = Reading | Curve | Skip
