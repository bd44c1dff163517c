"""The author's contract: what a plugin, a pass and a metric are.

A plugin is a generator function. Its positional parameters name the passes it needs, its keyword-only parameters
are its options; it yields `Reading`, `Curve` or `Skip`:

    @plugin(version=1, metrics=[Metric("frobenius", unit="weight", meaning="Frobenius norm", source="definition")])
    def weight_norm(weights: Weights, *, matrices_only: bool = True) -> Iterator[Finding]:
        \"\"\"Norm of every weight.\"\"\"
        ...

Passes are the shared computations that plugins name; a pass declares its own needs and settings in the same way.
Every parameter's annotation must equal the type its pass returns, which is checked when plugins are loaded.
Decorated functions stay callable as they are, so a test calls them with values of its own.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, ParamSpec, Protocol, Self, TypeVar, get_type_hints

from sounding.errors import SoundingError
from sounding.records import Against, Cost, Finding, MetricSheet, Over
from sounding.tap import Tap

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
B_contra = TypeVar("B_contra", contravariant=True)

Metric = MetricSheet
Taps = Mapping[str, Tap] | Callable[..., Mapping[str, Tap]]  # a function of the accumulator's options gives them too

# Supplied by the engine itself under these names; everything else a function needs is a pass.
#   opened      the checkpoint's contents, lazily (sounding.passes.Opened)
#   checkpoint  its identity and progress (sounding.Checkpoint)
#   run         the run's name and attributes (sounding.Run)
#   recipe      the operator's recipe, loaded for this run (sounding.passes.Recipe)
#   network     which of the checkpoint's networks is measured; "" is its default one (str)
#   device      where models are to be computed (torch.device)
#   other       over="pair" only: the plugin's own passes, computed for the second checkpoint (sounding.passes.Other)
#   past        over="run" only: what is known of the run; ask for the passes `history`, `logs`, `checkpoints` instead
ROOTS = ("opened", "checkpoint", "run", "recipe", "network", "device", "other", "past")
OF_ONE = ("opened", "checkpoint", "other")  # roots that a run as a whole has not
OF_A_RUN = ("past",)  # roots that only a run as a whole has


class Unavailable(Exception):
    """Raised by a pass that this checkpoint has no material for; its users are skipped, with this reason."""


@dataclass(frozen=True, slots=True)
class Run:
    """The run a checkpoint belongs to, with its attributes (numbers where they parse as such)."""

    store: str
    name: str
    attributes: Mapping[str, int | float | str]


class Accumulator(Protocol[B_contra, T_co]):
    """A pass that is filled during the one traversal of the probe that all accumulators of a job share."""

    def update(self, batch: B_contra) -> None:
        """Take in one batch; called once for every batch of every split, in order."""

    def result(self) -> T_co:
        """What was accumulated; called once, after the last batch."""
        ...


class Mergeable(Accumulator[B_contra, T_co], Protocol[B_contra, T_co]):
    """An accumulator that can be filled in parts: every bundled one is, and those of authors may be.

    Parts are made alike and take in other batches of the same probe, in any order. Merged they give the result of one
    that took in all of them; sums may differ in the order in which they were made.
    """

    def merge(self, other: Self) -> None:
        """Take in what `other` has taken in; that one is not to be used afterwards."""


@dataclass(frozen=True, slots=True)
class Option:
    """A keyword-only parameter: its annotation and default."""

    name: str
    annotation: object
    default: object


@dataclass(frozen=True)
class Plugin(Generic[P]):
    """A registered analysis; call it like the function it decorates."""

    name: str
    version: int
    function: Callable[P, Iterable[Finding]]
    metrics: tuple[Metric, ...]
    over: Over
    against: Against | None
    cost: Cost
    needs: Mapping[str, object]  # pass name → annotation
    options: tuple[Option, ...]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[Finding]:
        """Run the analysis on values given by the caller."""
        return iter(self.function(*args, **kwargs))


@dataclass(frozen=True)
class Pass(Generic[P, T]):
    """A shared computation; call it like the function it decorates."""

    name: str
    version: int
    function: Callable[P, T]
    kind: Literal["shared", "accumulator"]
    returns: object
    needs: Mapping[str, object]
    options: tuple[Option, ...]
    gradients: bool = False  # an accumulator that needs the gradient of each batch's summed loss
    taps: Taps = field(default_factory=dict)  # an accumulator's, by the name it gives each

    @property
    def may_tap_the_head(self) -> bool:
        """Whether the network's head has to be looked for before the traversal."""
        return callable(self.taps) or any(tap.about_the_head for tap in self.taps.values())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute the pass from values given by the caller."""
        return self.function(*args, **kwargs)


def plugin(
    *,
    version: int,
    metrics: Sequence[Metric],
    over: Over = "checkpoint",
    against: Against | None = None,
    cost: Cost = "weights",
) -> Callable[[Callable[P, Iterable[Finding]]], Plugin[P]]:
    """Register a generator function as an analysis under its own name.

    Bump `version` when results change: every subject is then owed again. `cost` orders and budgets the work;
    "offline" plugins run only on request. `over="pair"` compares with the checkpoint that `against` names.

    Raises SoundingError when the declaration contradicts itself.
    """

    def register(function: Callable[P, Iterable[Finding]]) -> Plugin[P]:
        needs, options = read_signature(function)
        name = function.__name__
        _require(version >= 1, name, f"version is {version}, expected a whole number from 1")
        _require(bool(metrics), name, "declares no metrics; list at least one Metric(name, unit, meaning, source)")
        names = [metric.name for metric in metrics]
        _require(len(set(names)) == len(names), name, f"declares a metric twice: {sorted(names)}")
        _require((over == "pair") == (against is not None), name, 'over="pair" and against=… go together')
        _require(over == "pair" or "other" not in needs, name, 'needs `other`, which only over="pair" has')
        return Plugin(name, version, function, tuple(metrics), over, against, cost, needs, options)

    return register


def shared_pass(*, version: int) -> Callable[[Callable[P, T]], Pass[P, T]]:
    """Register a function of other passes, computed once per checkpoint, under its own name."""

    def register(function: Callable[P, T]) -> Pass[P, T]:
        needs, options = read_signature(function)
        returns = get_type_hints(function).get("return")
        _require(returns is not None, function.__name__, "has no return annotation, which names what users receive")
        return Pass(function.__name__, version, function, "shared", returns, needs, options)

    return register


def accumulator(
    *, version: int, gradients: bool = False, taps: Taps | None = None
) -> Callable[[Callable[P, T]], Pass[P, T]]:
    """Register a function that makes an `Accumulator`; users of the pass receive what its `result` returns.

    `taps` names what the accumulator wants to see from inside the network, e.g. `{"features": Tap.head()}`, found in
    `batch.taps["features"]`; a function that is given the accumulator's options may return it instead.
    """

    def register(function: Callable[P, T]) -> Pass[P, T]:
        needs, options = read_signature(function)
        name = function.__name__
        returns = get_type_hints(function).get("return")
        result = getattr(returns, "result", None)
        _require(result is not None, name, "must be annotated to return a class with update and result")
        returns = get_type_hints(result).get("return")
        wished = {} if taps is None else taps
        if not callable(wished):
            _require(all(isinstance(tap, Tap) for tap in wished.values()), name, "`taps` must map names to `Tap`s")
        return Pass(name, version, function, "accumulator", returns, needs, options, gradients, wished)

    return register


def read_signature(function: Callable[..., object]) -> tuple[dict[str, object], tuple[Option, ...]]:
    """Split a function's parameters into needs (positional) and options (keyword-only).

    Raises SoundingError when a parameter has no annotation, an option no default, or a need has one.
    """
    name = function.__name__
    hints = get_type_hints(function)
    needs: dict[str, object] = {}
    options: list[Option] = []
    for parameter in inspect.signature(function).parameters.values():
        _require(parameter.name in hints, name, f"parameter `{parameter.name}` has no type annotation")
        _require(
            parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD),
            name,
            f"`*{parameter.name}` is not allowed: every parameter names a pass or an option",
        )
        if parameter.kind is parameter.KEYWORD_ONLY:
            _require(parameter.default is not parameter.empty, name, f"option `{parameter.name}` has no default")
            options.append(Option(parameter.name, hints[parameter.name], parameter.default))
        else:
            _require(
                parameter.default is parameter.empty,
                name,
                f"need `{parameter.name}` has a default; put `*` before options",
            )
            needs[parameter.name] = hints[parameter.name]
    return needs, tuple(options)


def _require(holds: bool, name: str, problem: str) -> None:
    if not holds:
        raise SoundingError(f"{name}: {problem}.")
