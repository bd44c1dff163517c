"""The passes of one network of one checkpoint: computed on demand, once, and freed after their last user."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from sounding.blame import describe_error
from sounding.contract import Unavailable
from sounding.errors import SoundingError
from sounding.measuring.collecting import AnyPass
from sounding.measuring.discovery import Loaded, needs_of
from sounding.measuring.options import resolve
from sounding.measuring.traversal import Wanted, traverse
from sounding.records import Ending
from sounding.seeds import seeded


class PassFailure(Exception):
    """A pass or root that cannot be had: how its users end, and why."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending = ending
        self.reason = reason


class Supply:
    """Supplies passes and roots by name.

    `roots` are made on demand too. `settings` are pass settings by pass name. `seed` names the checkpoint, so that
    a pass that draws random numbers draws the same ones whichever plugins ask for it. `other` makes the second
    checkpoint of a pair as the given pass may see it.
    """

    def __init__(
        self,
        loaded: Loaded,
        roots: Mapping[str, Callable[[], Any]],
        settings: Mapping[str, Mapping[str, object]],
        seed: str,
        other: Callable[[AnyPass], Any] | None = None,
    ) -> None:
        self._loaded = loaded
        self._other = other
        self._roots = roots
        self._settings = settings
        self._seed = seed
        self._values: dict[str, Any] = {}
        self.dtypes: dict[str, str] = {}  # floating-point types of passes that have one, kept when the pass is freed
        # Only words are kept of a failure: the exception would keep its frames, and they the checkpoint's tensors.
        self._failures: dict[str, tuple[Ending, str]] = {}

    def get(self, name: str, wanted: Iterable[str] = ()) -> Any:
        """The value of a pass or root. Raises PassFailure, the same one however often it is asked for.

        `wanted` are the direct needs of everything still to be run: when `name` takes a traversal of the probe,
        every accumulator among their needs is filled in it too.
        """
        if name in self._failures:
            raise PassFailure(*self._failures[name])
        if name not in self._values:
            try:
                self._compute(name, wanted)
            except PassFailure as failure:
                self._fail(name, failure)
                raise
        return self._values[name]

    def trim(self, wanted: Iterable[str]) -> None:
        """Free every value that nothing among `wanted`, nor any pass still to be computed for it, will use."""
        keep: set[str] = set()
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            if name in keep:
                continue
            keep.add(name)
            if name not in self._values and name in self._loaded.passes:
                waiting.extend(needs_of(self._loaded.passes[name]))
        for name in [name for name in self._values if name not in keep]:
            del self._values[name]

    def _compute(self, name: str, wanted: Iterable[str]) -> None:
        item = self._loaded.passes.get(name)
        if item is None:
            self._values[name] = self._guarded(name, self._roots[name])
        elif item.kind == "shared":
            values = [self._need(item, need, wanted) for need in item.needs]
            self._values[name] = value = self._guarded(name, partial(item, *values, **self._options(item)))
            if hasattr(value, "dtype"):
                self.dtypes[name] = str(value.dtype).removeprefix("torch.")
        else:
            self._fill(name, wanted)

    def _need(self, item: AnyPass, need: str, wanted: Iterable[str]) -> Any:
        return self._other(item) if need == "other" and self._other is not None else self.get(need, wanted)

    def _fill(self, name: str, wanted: Iterable[str]) -> None:
        """One traversal for `name` and every other accumulator still wanted that can be had."""
        makers = self._makers((name, *self._loaded.transitive(wanted)), wanted)
        if name in makers:
            for each, result in self._traversed(makers, wanted).items():
                if isinstance(result, Exception):
                    self._fail(each, _failure(each, result))
                else:
                    self._values[each] = result
        if name in self._failures:
            raise PassFailure(*self._failures[name])

    def _makers(self, names: Iterable[str], wanted: Iterable[str]) -> dict[str, Wanted]:
        """How to make those among `names` that are accumulators yet to be filled; what they need is computed."""
        makers: dict[str, Wanted] = {}
        for name in dict.fromkeys(names):
            item = self._loaded.passes.get(name)
            if item is None or item.kind != "accumulator" or name in self._values or name in self._failures:
                continue
            try:
                values = [self.get(need, wanted) for need in item.needs]
                options = self._options(item)
                taps = self._guarded(name, partial(item.taps, **options)) if callable(item.taps) else item.taps
                makers[name] = Wanted(partial(item, *values, **options), item.gradients, taps)
            except PassFailure as failure:
                self._fail(name, failure)
        return makers

    def _traversed(self, makers: Mapping[str, Wanted], wanted: Iterable[str]) -> dict[str, object]:
        try:
            model, recipe, run = (self.get(need, wanted) for need in ("model", "recipe", "run"))
            head = self._head(makers, wanted)
            results: dict[str, object] = self._guarded(
                "traversal of the probe", lambda: traverse(model, recipe.probe(run), makers, head=head)
            )
            return results
        except PassFailure as failure:
            return dict.fromkeys(makers, failure)

    def _head(self, makers: Mapping[str, Wanted], wanted: Iterable[str]) -> Any:
        """The network's head, or why it has none, where somebody taps it or wants to know which layer it is."""
        if not any(tap.about_the_head for each in makers.values() for tap in each.taps.values()):
            return None
        try:
            return self.get("head", wanted)
        except PassFailure as failure:
            return failure

    def _fail(self, name: str, failure: PassFailure) -> None:
        self._failures[name] = (failure.ending, failure.reason)

    def _options(self, item: AnyPass) -> dict[str, Any]:
        try:
            return resolve(f"pass {item.name}", item.options, self._settings.get(item.name, {}))
        except SoundingError as error:
            raise PassFailure(Ending.FAILED, str(error)) from None

    def _guarded(self, name: str, compute: Callable[[], Any]) -> Any:
        try:
            with seeded(self._seed, name):
                return compute()
        except PassFailure:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code; its failure is its users' failure
            raise _failure(name, error) from None


def _failure(name: str, error: BaseException) -> PassFailure:
    if isinstance(error, PassFailure):
        return PassFailure(error.ending, error.reason)
    if isinstance(error, Unavailable):
        return PassFailure(Ending.SKIPPED, str(error))
    if isinstance(error, SoundingError):
        return PassFailure(Ending.FAILED, str(error))
    return PassFailure(Ending.FAILED, f"the pass `{name}` failed: {describe_error(error)}")
