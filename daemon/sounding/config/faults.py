"""What is wrong with the tables of `sounding.toml`, in words for the operator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sounding.config.tables import DaemonTable, Document, LogTable, PluginTable, ResultsTable, ScheduleTable, StoreTable


def explain(path: Path, error: ValidationError) -> str:
    """Every wrong key of the file at `path`, a line each: what was expected, what was found, an example."""
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
        "plugins": PluginTable,
    }
    table = tables.get(str(location[0]), Document) if len(location) > 1 else Document
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
