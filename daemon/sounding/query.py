"""Queries over a results directory: DuckDB views over the files of one moment, in memory, while the daemon writes."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import duckdb

from sounding.current import prepare_current
from sounding.listing import job_files, live_names, quoted, read_folds, table_function
from sounding.views import VIEWS

T = TypeVar("T")

_SETTINGS = {
    "threads": str(min(4, os.cpu_count() or 1)),
    "parquet_metadata_cache": "true",  # several views read the footers of the same files
    "python_enable_replacements": "false",  # a name in a query is never a variable of this process
    "temp_directory": quoted(str(Path(tempfile.gettempdir()) / f"sounding-query-{os.getpid()}")),
}


def connect(results: str | Path, names: Iterable[str] | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with the views over the files of this moment; only those in `names` when given.

    A results directory without files gives empty views of the same columns.
    """
    connection, _ = connect_files(results, names)
    return connection


def connect_files(
    results: str | Path, names: Iterable[str] | None = None
) -> tuple[duckdb.DuckDBPyConnection, list[str]]:
    """As `connect`, with the paths of the files that its views read."""
    jobs = Path(results) / "jobs"
    connection = duckdb.connect()
    for setting, value in _SETTINGS.items():
        connection.execute(f"SET {setting} = {value}").fetchall()

    def make() -> list[str]:
        listed = job_files(jobs)
        paths = [str(jobs / name) for name in live_names(listed, read_folds(connection, jobs, listed))]
        make_views(connection, paths, names)
        return paths

    return connection, retried(make)


def retried(read: Callable[[], T]) -> T:
    """The answer of `read`, asked once more when a file was folded away under it."""
    try:
        return read()
    except duckdb.IOException:
        return read()


def make_views(connection: duckdb.DuckDBPyConnection, paths: list[str], names: Iterable[str] | None = None) -> None:
    """Make the views over exactly these files."""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW recorded AS SELECT * FROM {table_function(paths)}")
    conditions = prepare_current(connection)
    for name, text in VIEWS.items():
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {text.format(**conditions)}")
