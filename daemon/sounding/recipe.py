"""The operator's recipe: what a checkpoint cannot tell of its run — architecture, probe and loss — in one file."""

import contextlib
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sounding.blame import describe_error
from sounding.contract import Run
from sounding.errors import SoundingError
from sounding.losses import Losses, checked_losses, default_loss
from sounding.probe import Probe
from sounding.records import Checkpoint, RecipeSheet
from sounding.seeds import seeded

__all__ = ["Probe", "Recipe", "load_recipe", "survey"]

DEFAULT = "default"  # the probe that the shared traversal goes through
_KNOWN = ("architecture", "probe", "forward", "loss", "head", "attributes")
_KEPT = 2  # runs whose probes stay in memory
_WRITE = {
    "architecture": "def architecture(checkpoint):\n    return MyModel(...)  # the weights are loaded for you",
    "probe": "def probe(run):\n    return Probe(train=(inputs, targets), heldout=(inputs, targets))",
}


@dataclass(frozen=True)
class Recipe:
    """A loaded recipe. Functions that it does not define have defaults where a default is possible."""

    path: str
    version: int
    functions: Mapping[str, Callable[..., Any]]
    _probes: dict[str, Mapping[str, Probe]] = field(default_factory=dict, compare=False, repr=False)

    def architecture(self, checkpoint: Checkpoint, run: Run, network: str = "") -> nn.Module:
        """The network, built empty. Raises SoundingError when that fails or gives something else."""
        built = self._call("architecture", {"checkpoint": checkpoint, "run": run, "model": network})
        if isinstance(built, nn.Module):
            return built
        hint = " (call the class: `return Net()`)" if isinstance(built, type) else ""
        raise SoundingError(
            f"{self.path}: architecture returned {_what(built)}, expected a torch.nn.Module{hint}. For example:\n"
            + _WRITE["architecture"]
        )

    def probes(self, run: Run) -> Mapping[str, Probe]:
        """The run's probes by name; sampled once and kept while the run, or the one after it, is measured."""
        key = repr((run.store, run.name, sorted(run.attributes.items())))
        if key not in self._probes:
            while len(self._probes) >= _KEPT:  # one run's data at a time is what most recipes need; never all of them
                self._probes.pop(next(iter(self._probes)))
            self._probes[key] = self._named(self._call("probe", {"run": run}))
        return self._probes[key]

    def probe(self, run: Run) -> Probe:
        """The run's main probe."""
        return self.probes(run)[DEFAULT]

    def forward(self, model: nn.Module, inputs: Any) -> Any:
        """The model's outputs; by default its call, `**inputs` for dicts, with `.logits` taken where there is one."""
        if "forward" in self.functions:
            return self.functions["forward"](model, inputs)
        outputs = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
        if isinstance(outputs, Mapping) and "logits" in outputs:
            return outputs["logits"]
        return getattr(outputs, "logits", outputs)

    def losses(self, outputs: Any, targets: Any, inputs: Any, examples: int, unit: str) -> Losses:
        """Loss and weight of every example or token. Raises SoundingError when they are not per `unit`."""
        if "loss" not in self.functions:
            found = default_loss(outputs, targets)
            return checked_losses((found.values, found.weights), examples, unit)
        return checked_losses(self.functions["loss"](outputs, targets, inputs), examples, unit)

    def head(self, module: nn.Module) -> str | None:
        """The name of the module that makes the logits; None where the recipe leaves it to be found.

        Raises SoundingError when `head` fails or returns something else than a name or one of the modules.
        """
        if "head" not in self.functions:
            return None
        given = self._call("head", {"model": module})
        if isinstance(given, nn.Module):
            given = next((name for name, child in module.named_modules() if child is given), given)
        if isinstance(given, str):
            return given
        raise SoundingError(
            f"{self.path}: head returned {_what(given)}, expected the name of one of the network's modules, for "
            'example:\ndef head(model):\n    return "fc"'
        )

    def attributes(self, checkpoint: Checkpoint) -> dict[str, int | float | str]:
        """What the recipe knows of the checkpoint's run besides; empty by default.

        Raises SoundingError when it gives something else than numbers and texts by name.
        """
        if "attributes" not in self.functions:
            return {}
        found = self._call("attributes", {"checkpoint": checkpoint})
        if isinstance(found, Mapping) and all(
            isinstance(key, str) and isinstance(value, int | float | str) for key, value in found.items()
        ):
            return dict(found)
        raise SoundingError(
            f"{self.path}: attributes returned {_what(found)}, expected names with numbers or texts, "
            f'for example {{"width": 64, "optimizer": "adamw"}}.'
        )

    def _call(self, name: str, offered: Mapping[str, object]) -> Any:
        if name not in self.functions:
            raise SoundingError(f"{self.path} defines no `{name}`; write for example:\n{_WRITE[name]}")
        function = self.functions[name]
        arguments = _arguments(self.path, name, function, offered)
        with _working(self.path, f"{name} raised"):
            return function(*arguments)

    def _named(self, returned: object) -> Mapping[str, Probe]:
        probes = {DEFAULT: returned} if isinstance(returned, Probe) else returned
        if not isinstance(probes, Mapping) or not all(isinstance(each, Probe) for each in probes.values()):
            raise SoundingError(f"{self.path}: probe returned {_what(returned)}, expected a Probe:\n{_WRITE['probe']}")
        if DEFAULT not in probes:
            raise SoundingError(
                f'{self.path}: probe returned probes named {sorted(probes)}, but none named "{DEFAULT}", which is '
                "the one that losses, predictions and gradients use."
            )
        return probes


def load_recipe(path: str) -> Recipe:
    """Load an operator's file; a file that has not changed since, nor any module beside it, is loaded once.

    Raises SoundingError saying what to write when it is missing, raises, exits or defines no architecture.
    """
    file = Path(path)
    try:
        stamp = file.stat()
    except OSError as error:
        raise SoundingError(
            f"{path}: there is no such recipe ({error.strerror}); create it or correct `recipe` in the configuration."
        ) from error
    return _load(str(file.absolute()), stamp.st_mtime_ns, stamp.st_size, _beside(file))


def survey(path: str, run: Run, checkpoint: Checkpoint | None = None) -> RecipeSheet:
    """Version and probe hashes for one run, with the attributes that the recipe knows of it.

    Says what is wrong instead; never raises for what the operator wrote.
    """
    try:
        recipe = load_recipe(path)
        probes = recipe.probes(run) if "probe" in recipe.functions else {}
        with _working(path, "hashing the probe failed"):
            hashes = {name: probe.hash for name, probe in probes.items()}
        attributes = {} if checkpoint is None else recipe.attributes(checkpoint)
        return RecipeSheet(recipe.version, hashes, attributes)
    except SoundingError as error:
        return RecipeSheet(error=str(error))


@functools.lru_cache(maxsize=4)
def _load(path: str, mtime_ns: int, size: int, beside: tuple[tuple[str, int], ...]) -> Recipe:
    name = "sounding_recipe_" + hashlib.blake2b(repr((path, mtime_ns, beside)).encode(), digest_size=8).hexdigest()
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # so that classes defined in the recipe can be found by pickling data loaders
    with _working(path, "loading it failed"):
        exec(compile(Path(path).read_bytes(), path, "exec"), module.__dict__)
    functions = {known: vars(module)[known] for known in _KNOWN if callable(vars(module).get(known))}
    if "architecture" not in functions:
        raise SoundingError(f"{path} defines no `architecture`; write for example:\n{_WRITE['architecture']}")
    version = vars(module).get("version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SoundingError(f"{path}: version is {version!r}, expected a whole number from 1, e.g. `version = 1`.")
    return Recipe(path, version, functions)


@contextlib.contextmanager
def _working(path: str, doing: str) -> Iterator[None]:
    """Run the operator's code: beside its own modules, from a fixed seed, its failures put in words."""
    directory = str(Path(path).absolute().parent)
    before, bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, directory)
    sys.dont_write_bytecode = True
    try:
        with seeded("recipe"):
            yield
    except SoundingError as error:
        raise SoundingError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # operator's code; its failure becomes a message
        raise SoundingError(f"{path}: {doing}: {describe_error(error)}") from error
    finally:
        sys.path.remove(directory)
        sys.dont_write_bytecode = bytecode
        _forget(directory, set(sys.modules) - before)


def _forget(directory: str, added: set[str]) -> None:
    """Modules beside this recipe must not be taken for another recipe's of the same name."""
    for name in added:
        file = getattr(sys.modules[name], "__file__", None)
        if file and not name.startswith("sounding_recipe_") and Path(file).is_relative_to(directory):
            del sys.modules[name]


def _beside(file: Path) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((each.name, each.stat().st_mtime_ns) for each in file.parent.glob("*.py") if each.is_file()))


def _arguments(path: str, name: str, function: Callable[..., Any], offered: Mapping[str, object]) -> list[object]:
    parameters = [
        each for each in inspect.signature(function).parameters.values() if each.default is inspect.Parameter.empty
    ]
    if len(parameters) == 1 and parameters[0].name not in offered:
        return [next(iter(offered.values()))]
    unknown = [each.name for each in parameters if each.name not in offered]
    if unknown:
        raise SoundingError(f"{path}: {name} asks for `{unknown[0]}`, which is not among: {', '.join(offered)}.")
    return [offered[each.name] for each in parameters]


def _what(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
