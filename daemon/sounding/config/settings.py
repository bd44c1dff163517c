"""What `sounding.toml` comes to: paths absolute, patterns compiled, schedules read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sounding.config.tables import Chosen, DaemonTable
from sounding.log_setting import LogSetting
from sounding.pattern import Pattern
from sounding.records import Cost
from sounding.schedule import Schedule


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: those it is bound to, or what its container is granted, if that is less."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        granted, period = quota.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return bound
    return bound if granted == "max" else max(1, min(bound, int(granted) // int(period)))


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
