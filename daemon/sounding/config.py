"""`sounding.toml` as typed settings; every error names the file, the key, what was expected and an example."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError

from sounding.errors import SoundingError
from sounding.locate import DEFAULT_RESULTS, from_config, read_toml
from sounding.log_setting import LogSetting, log_setting
from sounding.pattern import Pattern, compile_pattern
from sounding.records import Cost
from sounding.schedule import Schedule, parse_schedule


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _log_tables(value: object) -> object:
    listed = [value] if isinstance(value, (str, dict)) else value
    return (
        [{"path": item} if isinstance(item, str) else item for item in listed] if isinstance(listed, list) else listed
    )


Texts = Annotated[list[str], BeforeValidator(_listed)]
Chosen: TypeAlias = Literal["auto", True, False]  # by the operator, or by what is found


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ResultsTable(_Table):
    """`[results]`: where readings are kept."""

    path: str = Field(DEFAULT_RESULTS, examples=['path = ".sounding"'])
    holds_max: ByteSize = Field(ByteSize(100 * 10**9), examples=['holds_max = "100 GB"'])
    keep_free: ByteSize = Field(ByteSize(256 * 10**6), examples=['keep_free = "256 MB"'])


class LogTable(_Table):
    """An entry of `logs` that names more than a path."""

    path: str = Field(examples=['path = "{run}/metrics.csv"'])
    updates: str = Field("", examples=['updates = "n"'])


Logs = Annotated[list[LogTable], BeforeValidator(_log_tables)]


class StoreTable(_Table):
    """`[[stores]]`: a directory that jobs write checkpoints to; watched, never written."""

    path: str = Field(examples=['path = "runs"'])
    pattern: Texts = Field(min_length=1, examples=['pattern = "{run}/ckpt_{step}.pt"'])
    name: str = Field("", examples=['name = "lab"'])
    run: str | None = Field(None, examples=['run = "lr{lr}_s{seed}"'])
    recipe: str | None = Field(None, examples=['recipe = "recipe.py"'])
    attributes: Texts = Field([], examples=['attributes = ["{run}/config.yaml", "checkpoint:args"]'])
    logs: Logs = Field([], examples=['logs = ["{run}/metrics.csv", "checkpoint:trainer_state.json"]'])
    models: dict[str, str] = Field({}, examples=['[stores.models]\nraw = "model"\nema = "ema"'])
    quiet_seconds: float = Field(2.0, ge=0, examples=["quiet_seconds = 2.0"])
    hold: Chosen = Field("auto", examples=["hold = true"])
    network: Chosen = Field("auto", examples=["network = true"])


class DaemonTable(_Table):
    """`[daemon]`: how much of the machine the daemon takes."""

    workers: int = Field(1, ge=1, le=64, examples=["workers = 1"])
    threads: int | None = Field(None, ge=1, examples=["threads = 1"])
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", examples=['device = "cpu"'])
    gpu_headroom: float = Field(0.1, ge=0, lt=1, examples=["gpu_headroom = 0.1"])
    deadline_seconds: float = Field(900.0, gt=0, examples=["deadline_seconds = 900.0"])
    memory_limit_mb: int = Field(8192, ge=64, examples=["memory_limit_mb = 8192"])
    attempts: int = Field(3, ge=1, le=100, examples=["attempts = 3"])
    retry_seconds: float = Field(30.0, ge=0, le=3600, examples=["retry_seconds = 30.0"])
    nice: int = Field(10, ge=0, le=19, examples=["nice = 10"])
    grace_seconds: float = Field(10.0, ge=0, le=3600, examples=["grace_seconds = 10.0"])
    scan_seconds: float = Field(2.0, gt=0, examples=["scan_seconds = 2.0"])
    full_scan_seconds: float = Field(300.0, gt=0, examples=["full_scan_seconds = 300.0"])
    idle_seconds: float = Field(60.0, ge=0, examples=["idle_seconds = 60.0"])
    events: bool = Field(True, examples=["events = true"])


class _PluginTable(BaseModel):
    """`[plugins.NAME]`: when it runs; every other key is an option of the plugin, checked against its signature."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    at: str | None = Field(None, examples=['at = "every 5000"'])
    enabled: bool = Field(True, examples=["enabled = false"])


class ScheduleTable(_Table):
    """`[schedule]`: when plugins run whose own table has no `at`, by what they cost."""

    weights: str = Field("all", examples=['weights = "all"'])
    data: str = Field("all", examples=['data = "all"'])
    gradient: str = Field("all", examples=['gradient = "every 1000"'])
    curvature: str = Field("first,last", examples=['curvature = "every 5000"'])
    offline: str = Field("all", examples=['offline = "all"'])


class _Document(_Table):
    results: ResultsTable = Field(ResultsTable.model_validate({}), examples=['[results]\npath = ".sounding"'])
    stores: list[StoreTable] = Field([], examples=['[[stores]]\npath = "runs"\npattern = "{run}/ckpt_{step}.pt"'])
    plugins: dict[str, _PluginTable] = Field({}, examples=['[plugins.loss]\nat = "every 5000"'])
    schedule: ScheduleTable = Field(ScheduleTable.model_validate({}), examples=['[schedule]\ncurvature = "every 5000"'])
    passes: dict[str, dict[str, Any]] = Field({}, examples=["[passes.NAME]\nOPTION = 1"])
    daemon: DaemonTable = Field(DaemonTable.model_validate({}), examples=["[daemon]\nworkers = 1"])


class Store(BaseModel):
    """A store with its paths made absolute and its patterns compiled."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    name: str
    path: Path
    patterns: tuple[Pattern, ...]
    recipe: Path | None
    attributes: tuple[str, ...]
    logs: tuple[LogSetting, ...] = ()
    models: Mapping[str, str]
    quiet_seconds: float
    hold: Chosen = "auto"  # whether checkpoints are copied before they are read
    network: Chosen = "auto"  # whether other hosts may write there unseen


class PluginSettings(BaseModel):
    """When a plugin runs, and the options the operator set, not yet checked against its signature."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    schedule: Schedule | None  # None where what it costs decides
    enabled: bool
    options: Mapping[str, Any]


class Settings(BaseModel):
    """The whole configuration, checked as far as it can be without looking at stores, plugins or recipes."""

    model_config = ConfigDict(frozen=True)
    source: Path
    results: Path
    keep_free_bytes: int  # on the disk of the results; with less, nothing is begun
    stores: tuple[Store, ...]
    plugins: Mapping[str, PluginSettings]
    schedules: Mapping[Cost, Schedule]
    passes: Mapping[str, Mapping[str, Any]]
    daemon: DaemonTable
    holds_max: int  # bytes, of all copies of checkpoints together

    def schedule_of(self, plugin: str, cost: Cost) -> Schedule:
        """When a plugin measures: as its own table says, else as all of its cost."""
        chosen = self.plugins.get(plugin)
        return self.schedules[cost] if chosen is None or chosen.schedule is None else chosen.schedule

    @property
    def threads(self) -> int:
        """Threads of one worker: never more than the cores shared among the workers."""
        return self.daemon.threads or max(1, cores() // self.daemon.workers)


def load_config(path: Path) -> Settings:
    """Read and check a configuration. Raises SoundingError listing every wrong key."""
    document = read_toml(path)
    try:
        parsed = _Document.model_validate(document)
    except ValidationError as error:
        raise SoundingError(_explain(path, error)) from error
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


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: those it is bound to, or what its container is granted, if that is less."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        granted, period = quota.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return bound
    return bound if granted == "max" else max(1, min(bound, int(granted) // int(period)))


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


def _plugin(name: str, table: _PluginTable) -> PluginSettings:
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


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in problem["loc"]).lstrip(".")
        if problem["type"] == "extra_forbidden":
            lines.append(f"{path}: {where}: unknown key; expected one of {', '.join(_known(problem['loc']))}.")
            continue
        found = "" if problem["type"] == "missing" else f", found {problem['input']!r}"
        example = _example(problem["loc"])
        lines.append(f"{path}: {where}: {problem['msg']}{found}{f'; for example {example}' if example else ''}.")
    return "\n".join(lines)


def _fields(location: tuple[int | str, ...]) -> Mapping[str, Any]:
    tables: dict[str, type[BaseModel]] = {
        "results": ResultsTable,
        "stores": StoreTable,
        "daemon": DaemonTable,
        "schedule": ScheduleTable,
        "plugins": _PluginTable,
    }
    table = tables.get(str(location[0]), _Document) if len(location) > 1 else _Document
    table = LogTable if "logs" in location[:-1] else table
    return table.model_fields


def _known(location: tuple[int | str, ...]) -> list[str]:
    return list(_fields(location))


def _example(location: tuple[int | str, ...]) -> str:
    fields = _fields(location)
    for key in reversed(location):
        field = fields.get(str(key))
        if field is not None and field.examples:
            return str(field.examples[0])
    return ""
