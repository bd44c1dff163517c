"""Which files hold the results at this moment: a listing of the directory, less the files that others replace.

A folded file names in its metadata every file it replaces that was still there when it was written; so one listing,
read in any order, is enough to tell which files count.
"""

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from sounding.keeping.schema import COLUMNS, Column

FOLD_PREFIX = "fold-"
REPLACES = "sounding.replaces"  # JSON list of names
SCHEMA_VERSION_KEY = "sounding.schema_version"


_PUBLISHED = "%Y%m%dT%H%M%SZ"


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
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_fold(name: str) -> bool:
    """Whether the file was made of others."""
    return name.startswith(FOLD_PREFIX)


def fold_name(seq: int, published: datetime) -> str:
    """A new name for a folded file that is published at this moment (UTC) and holds nothing newer than `seq`."""
    return f"{FOLD_PREFIX}{seq:012d}-{published.astimezone(UTC):{_PUBLISHED}}-{secrets.token_hex(4)}.parquet"


def newest_seq(name: str) -> int:
    """The greatest sequence number of publications that a file holds, from its name."""
    return int(name.removeprefix(FOLD_PREFIX).split("-")[0])


def in_memory(settings: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    """A DuckDB of our own that prints nothing and fetches nothing; settings are SQL."""
    connection = duckdb.connect()
    for setting, value in {"enable_progress_bar": "false", "autoinstall_known_extensions": "false", **settings}.items():
        connection.execute(f"SET {setting} = {value}").fetchall()
    return connection


def read_folds(connection: duckdb.DuckDBPyConnection, jobs: Path, names: Iterable[str]) -> list[Fold]:
    """What every folded file among `names` replaces, read from the footers.

    Raises duckdb.IOException when one has been deleted since the listing.
    """
    paths = [str(jobs / name) for name in names if is_fold(name)]
    if not paths:
        return []
    rows = connection.execute(
        "SELECT file_name, value FROM parquet_kv_metadata($1) WHERE decode(key) = $2", [paths, REPLACES]
    ).fetchall()
    return [fold_of(Path(path).name, json.loads(value)) for path, value in rows]


def fold_of(name: str, replaces: Sequence[str]) -> Fold:
    """The folded file of this name, whose metadata names what it replaces."""
    published = datetime.strptime(name.split("-")[2], _PUBLISHED).replace(tzinfo=UTC)
    return Fold(name, tuple(replaces), published)


def live_names(names: Sequence[str], folds: Iterable[Fold]) -> list[str]:
    """The names that no fold replaces."""
    replaced = {name for fold in folds for name in fold.replaces}
    return [name for name in names if name not in replaced]


def table_function(paths: Sequence[str], table: Sequence[Column] = COLUMNS) -> str:
    """SQL that reads exactly these files with a table's columns: absent ones are NULL, unknown ones left out."""
    if not paths:
        columns = ", ".join(f'NULL::{column.type} AS "{column.name}"' for column in table)
        return f"(SELECT {columns} WHERE false)"
    listed = ", ".join(quoted(path) for path in paths)
    columns = ", ".join(
        f"'{column.name}': {{'name': '{column.name}', 'type': '{column.type}', 'default_value': NULL}}"
        for column in table
    )
    return f"read_parquet([{listed}], schema = MAP {{{columns}}})"


def quoted(text: str) -> str:
    """The text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
