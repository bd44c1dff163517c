"""Which files hold the results at this moment: a listing of the directory, less the files that others replace.

A folded file names in its metadata every file it replaces that was still there when it was written; so one listing,
read in any order, is enough to tell which files count.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from sounding.schema import COLUMNS

FOLD_PREFIX = "fold-"
REPLACES = "sounding.replaces"  # JSON list of names
PUBLISHED = "sounding.published"  # ISO 8601, UTC
SCHEMA_VERSION_KEY = "sounding.schema_version"


@dataclass(frozen=True, slots=True)
class Fold:
    """A folded file: what it replaces and since when."""

    name: str
    replaces: tuple[str, ...]
    published: datetime


def job_files(jobs: Path) -> list[str]:
    """Names of all published files, replaced ones included, sorted; none where nothing was ever published."""
    try:
        return sorted(name for name in os.listdir(jobs) if name.endswith(".parquet"))
    except FileNotFoundError:
        return []


def is_fold(name: str) -> bool:
    """Whether the file was made of others."""
    return name.startswith(FOLD_PREFIX)


def read_folds(connection: duckdb.DuckDBPyConnection, jobs: Path, names: Iterable[str]) -> list[Fold]:
    """What every folded file among `names` replaces, read from the footers.

    Raises duckdb.IOException when one has been deleted since the listing.
    """
    paths = [str(jobs / name) for name in names if is_fold(name)]
    if not paths:
        return []
    rows = connection.execute("SELECT file_name, key, value FROM parquet_kv_metadata($1)", [paths]).fetchall()
    found: dict[str, dict[bytes, bytes]] = {Path(path).name: {} for path in paths}
    for path, key, value in rows:
        found[Path(path).name][key] = value
    return [_fold(name, metadata) for name, metadata in found.items()]


def live_names(names: Sequence[str], folds: Iterable[Fold]) -> list[str]:
    """The names that no fold replaces."""
    replaced = {name for fold in folds for name in fold.replaces}
    return [name for name in names if name not in replaced]


def table_function(paths: Sequence[str]) -> str:
    """SQL that reads exactly these files with exactly our columns: absent ones are NULL, unknown ones left out."""
    if not paths:
        columns = ", ".join(f'NULL::{column.type} AS "{column.name}"' for column in COLUMNS)
        return f"(SELECT {columns} WHERE false)"
    listed = ", ".join(quoted(path) for path in paths)
    columns = ", ".join(
        f"{quoted(column.name)}: {{'name': {quoted(column.name)}, 'type': {quoted(column.type)}, 'default_value': NULL}}"
        for column in COLUMNS
    )
    return f"read_parquet([{listed}], schema = MAP {{{columns}}})"


def quoted(text: str) -> str:
    """The text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _fold(name: str, metadata: Mapping[bytes, bytes]) -> Fold:
    published = datetime.fromisoformat(metadata[PUBLISHED.encode()].decode())
    return Fold(name, tuple(json.loads(metadata[REPLACES.encode()])), published.astimezone(UTC))
