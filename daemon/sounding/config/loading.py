"""From `sounding.toml` to settings, checked as far as they can be without looking at stores, plugins or recipes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from sounding.config.faults import explain
from sounding.config.settings import PluginSettings, Settings, Store
from sounding.config.tables import Document, PluginTable, StoreTable
from sounding.errors import SoundingError
from sounding.locate import from_config, read_toml
from sounding.log_setting import log_setting
from sounding.pattern import compile_pattern
from sounding.records import Cost
from sounding.schedule import Schedule, parse_schedule


def load_config(path: Path) -> Settings:
    """Read and check a configuration. Raises SoundingError listing every wrong key."""
    document = read_toml(path)
    try:
        parsed = Document.model_validate(document)
    except ValidationError as error:
        raise SoundingError(explain(path, error)) from error
    try:
        results = from_config(path, parsed.results.path)
        stores = tuple(_store(path, number, table) for number, table in enumerate(parsed.stores))
        plugins = {name: _plugin(name, table) for name, table in parsed.plugins.items()}
        schedules = {cost: _schedule("schedule." + cost, getattr(parsed.schedule, cost)) for cost in get_args(Cost)}
        _refuse_overlaps(stores)
        _refuse_results_inside(results, stores)
    except SoundingError as error:
        raise SoundingError(f"{path}: {error}") from error
    free, limit = int(parsed.results.keep_free), int(parsed.results.holds_max)
    parts: dict[str, Any] = {"results": results, "keep_free_bytes": free, "stores": stores, "plugins": plugins}
    parts |= {"schedules": schedules, "passes": parsed.passes, "daemon": parsed.daemon}
    return Settings(source=path, holds_max=limit, **parts)


def _store(config: Path, number: int, table: StoreTable) -> Store:
    path = from_config(config, table.path)
    name = table.name or path.name
    try:
        patterns = tuple(compile_pattern(text, name, table.run) for text in table.pattern)
        names_runs = any(pattern.run_template or "run" in pattern.types for pattern in patterns)
        logs = tuple(log_setting(log.path, log.updates, names_runs=names_runs) for log in table.logs)
    except SoundingError as error:
        raise SoundingError(f"stores[{number}]: {error}") from error
    return Store(
        name=name,
        path=path,
        patterns=patterns,
        recipe=None if table.recipe is None else from_config(config, table.recipe),
        attributes=tuple(table.attributes),
        logs=logs,
        models=table.models,
        quiet_seconds=table.quiet_seconds,
        hold=table.hold,
        network=table.network,
    )


def _plugin(name: str, table: PluginTable) -> PluginSettings:
    schedule = None if table.at is None else _schedule(f"plugins.{name}", table.at)
    return PluginSettings(schedule=schedule, enabled=table.enabled, options=dict(table.model_extra or {}))


def _schedule(where: str, text: str) -> Schedule:
    try:
        return parse_schedule(text)
    except SoundingError as error:
        raise SoundingError(f"{where}: {error}") from error


def _refuse_overlaps(stores: tuple[Store, ...]) -> None:
    for index, one in enumerate(stores):
        for other in stores[index + 1 :]:
            if one.name == other.name:
                raise SoundingError(f"two stores are named {one.name!r}; give one of them a `name` of its own.")
            mine, others = one.path.resolve(), other.path.resolve()
            if mine.is_relative_to(others) or others.is_relative_to(mine):
                raise SoundingError(
                    f"stores {one.name!r} and {other.name!r} overlap ({one.path} and {other.path}); "
                    f"a checkpoint belongs to one store: use one store with several patterns."
                )


def _refuse_results_inside(results: Path, stores: Iterable[Store]) -> None:
    for store in stores:
        if results.resolve().is_relative_to(store.path.resolve()):
            raise SoundingError(
                f"results.path: {results} lies in the store {store.name!r} ({store.path}), where nothing is ever "
                f'written; name a directory outside it, for example path = "../sounding-results".'
            )
