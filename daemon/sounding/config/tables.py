"""The tables of `sounding.toml` as an operator writes them, with an example of every key."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field

from sounding.locate import DEFAULT_RESULTS


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


class PluginTable(BaseModel):
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


class Document(_Table):
    """The whole file."""

    results: ResultsTable = Field(ResultsTable.model_validate({}), examples=['[results]\npath = ".sounding"'])
    stores: list[StoreTable] = Field([], examples=['[[stores]]\npath = "runs"\npattern = "{run}/ckpt_{step}.pt"'])
    plugins: dict[str, PluginTable] = Field({}, examples=['[plugins.loss]\nat = "every 5000"'])
    schedule: ScheduleTable = Field(ScheduleTable.model_validate({}), examples=['[schedule]\ncurvature = "every 5000"'])
    passes: dict[str, dict[str, Any]] = Field({}, examples=["[passes.NAME]\nOPTION = 1"])
    daemon: DaemonTable = Field(DaemonTable.model_validate({}), examples=["[daemon]\nworkers = 1"])
