"""Sheets: what is told of plugins, passes and recipes to those who never import them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sounding.records.terms import Against, Cost, Over


@dataclass(frozen=True, slots=True)
class MetricSheet:
    """A metric as its plugin declares it."""

    name: str
    unit: str
    meaning: str
    source: str
    kind: Literal["scalar", "label", "curve"] = "scalar"


@dataclass(frozen=True, slots=True)
class OptionSheet:
    """An option of a plugin or pass: its type as written, its default, and the value in force."""

    name: str
    type: str
    default: object
    value: object


@dataclass(frozen=True, slots=True)
class PassSheet:
    """A pass that a plugin uses, directly or through another pass."""

    name: str
    version: int
    options_hash: str


@dataclass(frozen=True, slots=True)
class PluginSheet:
    """Everything the daemon and the command line know of a plugin without importing it."""

    name: str
    version: int
    over: Over
    against: Against | None
    cost: Cost
    summary: str
    origin: str  # "distribution: module"
    metrics: tuple[MetricSheet, ...]
    options: tuple[OptionSheet, ...]
    options_hash: str  # of the option values in force
    passes: tuple[PassSheet, ...]  # transitive, sorted by name
    needs_recipe: bool  # uses the model or the data
    code_digest: str  # of the syntax tree; an alarm, never a trigger


@dataclass(frozen=True, slots=True)
class Refusal:
    """A plugin (or pass, or module) that cannot be used, and why."""

    name: str
    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The result of discovery: usable plugins by name, and those refused."""

    plugins: Mapping[str, PluginSheet]
    refusals: tuple[Refusal, ...] = ()
    without: tuple[str, ...] = ()  # modules whose import hangs or kills, which no process must try again


@dataclass(frozen=True, slots=True)
class RecipeSheet:
    """What the operator's recipe promises for one run, without its objects; `error` is set when it cannot be used."""

    version: int = 0
    probe_hashes: Mapping[str, str] = field(default_factory=dict)  # probe name → hash of inputs, targets, ids …
    attributes: Mapping[str, int | float | str] = field(default_factory=dict)  # what the recipe knows of the run
    error: str = ""
