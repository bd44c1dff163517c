"""Finding plugins and passes: every installed module is imported alone, so that one that breaks harms no other."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from sounding.blame import describe_error
from sounding.contract import Pass, Plugin
from sounding.records import Refusal

GROUP = "sounding.plugins"
WITHOUT = "SOUNDING_WITHOUT"  # environment variable: modules, separated by commas, that must not be imported
CORE = "sounding"  # the distribution whose passes others build on

AnyPlugin: TypeAlias = Plugin[Any]
AnyPass: TypeAlias = Pass[Any, Any]


@dataclass(frozen=True)
class Source:
    """A module or package to look into, and the distribution that brought it."""

    distribution: str
    module: str


@dataclass(frozen=True)
class Found:
    """A plugin or pass, and where it was defined: "distribution: module"."""

    item: AnyPlugin | AnyPass
    origin: str


def installed() -> tuple[Source, ...]:
    """The built-in passes, then everything installed under the entry-point group, in a stable order."""
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    own = Source(CORE, "sounding.passes")
    return (own, *(Source(point.dist.name if point.dist else "?", point.module) for point in points))


def collect(
    sources: Iterable[Source], avoided: Collection[str] = (), diary: str = ""
) -> tuple[list[Found], list[Refusal]]:
    """Import every source and the submodules of packages, each in isolation; return what they define.

    An import can end or hang the whole process. So that its parent can tell which one did, the name of the module
    being imported is kept in the file `diary`; the parent then calls again with that name among those `avoided`.
    """
    found: dict[int, Found] = {}
    refusals: dict[str, Refusal] = {}
    importing = _Importing(frozenset(avoided), Path(diary) if diary else None)
    for source in sources:
        for name, module in importing.modules(source.module):
            if isinstance(module, Refusal):
                refusals[name] = Refusal(name, f"{source.distribution}: {name}", module.reason)
                continue
            for item in vars(module).values():
                if isinstance(item, Plugin | Pass):
                    origin = f"{source.distribution}: {item.function.__module__}"
                    found.setdefault(id(item), Found(item, origin))
    return list(found.values()), list(refusals.values())


@dataclass(frozen=True)
class _Importing:
    avoided: frozenset[str]
    diary: Path | None

    def modules(self, name: str) -> Iterator[tuple[str, ModuleType | Refusal]]:
        """A module and, below a package, every module of it; or why one cannot be had."""
        module = self._import(name)
        yield name, module
        if isinstance(module, ModuleType):
            for child in pkgutil.iter_modules(getattr(module, "__path__", ())):
                if child.name != "__main__":
                    yield from self.modules(f"{name}.{child.name}")

    def _import(self, name: str) -> ModuleType | Refusal:
        if name in self.avoided:
            return Refusal(name, "", f"importing {name} ended the process, or never ended")
        if self.diary is not None:
            self.diary.write_text(name, encoding="utf-8")
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code; whatever it raises becomes a refusal
            return Refusal(name, "", f"importing {name} failed: {describe_error(error)}")
