"""Passes that are called by hand, on checkpoints of a run, are part of what results are stored under."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest

import sounding.passes
import sounding_plugins
from sounding.contract import Pass, Plugin
from sounding.deciding.plan import basis
from sounding.measuring.describing import describe


def modules() -> Iterator[ModuleType]:
    for package in (sounding.passes, sounding_plugins):
        for found in pkgutil.iter_modules(package.__path__):
            yield importlib.import_module(f"{package.__name__}.{found.name}")


def versions(module: ModuleType) -> dict[str, int]:
    """Of the passes and plugins that a module declares."""
    declared = [each for each in vars(module).values() if isinstance(each, Pass | Plugin)]
    return {each.name: each.version for each in declared if each.function.__module__ == module.__name__}


CALLED = [
    (module, name)
    for module in modules()
    for name, each in vars(module).items()
    if isinstance(each, Pass) and each.function.__module__ != module.__name__
]


@pytest.mark.parametrize(("module", "name"), CALLED, ids=lambda each: getattr(each, "__name__", each))
def test_the_version_of_a_pass_that_is_called_by_hand_is_part_of_the_callers(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
):
    called = getattr(module, name)
    home = importlib.import_module(called.function.__module__)
    monkeypatch.setattr(home, name, replace(called, version=called.version + 1))
    spec = importlib.util.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    later = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(later)
    before, after = versions(module), versions(later)
    assert before.keys() == after.keys()
    assert all(after[each] > before[each] for each in before)


def test_a_regime_rests_on_the_versions_of_the_passes_behind_its_path():
    assert {("invariant_path", "optimizer"), ("invariant_path", "scale_invariance"), ("checkpoints", "weights")} <= {
        (module.__name__.rpartition(".")[2], name) for module, name in CALLED
    }
    sheet = describe({}, {}).plugins["training_regime"]
    assert {"invariant_path", "checkpoints"} <= {each.name for each in sheet.passes}
    for name in ("invariant_path", "checkpoints"):
        raised = [replace(each, version=each.version + (each.name == name)) for each in sheet.passes]
        assert basis(replace(sheet, passes=tuple(raised)), None, {}) != basis(sheet, None, {})
