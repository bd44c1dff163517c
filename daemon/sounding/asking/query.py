"""Queries over a results directory: DuckDB views over the files of one moment, in memory, while the daemon writes.

Readers list the directory, leave out what a folded file replaces, and read exactly those files; they take no lock and
the daemon never waits for them. A view is made only when it is asked for, because making one opens files.
"""

import itertools
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb

from sounding.asking.current import current
from sounding.asking.spread import spread_attributes, spread_columns
from sounding.asking.views import MACROS, OF_LOGS, OF_WORK, TAKEN, VIEWS
from sounding.keeping.listing import in_memory, job_files, live_names, quoted, read_folds, table_function
from sounding.keeping.log_schema import LOG_COLUMNS, ROOM
from sounding.keeping.worklist import Work, runs_of, works_by_file

T = TypeVar("T")

NAMES = (*VIEWS, *MACROS)
_SETTINGS = {
    "threads": str(min(4, os.cpu_count() or 1)),
    "parquet_metadata_cache": "true",  # several views read the footers of the same files
    "python_enable_replacements": "false",  # a name in a query is never a variable of this process
    "temp_directory": quoted(str(Path(tempfile.gettempdir()) / f"sounding-query-{os.getpid()}")),
}


def connect(results: str | Path, names: Iterable[str] = NAMES, run: str | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with the named views, all unless told, over the files of this moment.

    With a `run`, views of work (readings, curves, outcomes, skips) may hold that run's rows alone, and are faster.
    A results directory without files, or none at all, gives empty views of the same columns. Use `fetchall`: a
    half-read answer blocks the connection.
    """
    connection = open_memory()
    make_views_of(connection, results, names, run)
    return connection


def open_memory() -> duckdb.DuckDBPyConnection:
    """A connection set up for our queries, without any view."""
    return in_memory(_SETTINGS)


def make_views_of(
    connection: duckdb.DuckDBPyConnection, results: str | Path, names: Iterable[str], run: str | None = None
) -> list[str]:
    """Make the named views over the files of this moment, and return the paths of those files."""
    wanted = set(names)

    def make() -> list[str]:
        paths = live_files(connection, results)
        logs = live_files(connection, results, ROOM) if wanted & OF_LOGS else []
        make_views(connection, paths, wanted, run, logs)
        return [*paths, *logs]

    return retried(make)


def live_files(connection: duckdb.DuckDBPyConnection, results: str | Path, table: str = "jobs") -> list[str]:
    """Absolute paths of the files of a table that count at this moment."""
    room = Path(results).absolute() / table
    listed = job_files(room)
    return [str(room / name) for name in live_names(listed, read_folds(connection, room, listed))]


def retried(read: Callable[[], T]) -> T:
    """The answer of `read`, asked once more when a file had been deleted between its listing and its reading."""
    try:
        return read()
    except duckdb.IOException:
        return read()


def named_in(sql: str) -> set[str]:
    """The views and macros that a text may refer to; a word too many costs time only."""
    return set(re.findall(r"\w+", sql.lower())) & set(NAMES)


def make_views(
    connection: duckdb.DuckDBPyConnection,
    paths: list[str],
    names: Iterable[str],
    run: str | None = None,
    logs: Sequence[str] = (),
) -> None:
    """Make the named views and macros, and those they refer to, over exactly these files, and these of logs."""
    wanted = _with_needs(set(names))
    if wanted & OF_LOGS:
        connection.execute(f"CREATE OR REPLACE TEMP VIEW logged AS FROM {table_function(logs, LOG_COLUMNS)}").fetchall()
    texts = {name: text for name, text in (VIEWS | MACROS).items() if name in wanted}
    works: dict[str, list[Work]] = {}
    if run is not None or any("{current}" in text for text in texts.values()):
        works = works_by_file(connection, paths)
    if run is not None and wanted <= OF_WORK:
        paths = [path for path in paths if run in runs_of(works[path])]
    connection.execute(f"CREATE OR REPLACE TEMP VIEW recorded AS FROM {table_function(paths)}").fetchall()
    filling = {"current": current(connection, list(itertools.chain(*works.values())))}
    attributes: list[str] | None = None
    for name, text in texts.items():
        if "{attributes}" in text:
            attributes = spread_attributes(connection) if attributes is None else attributes
            filling["attributes"] = spread_columns(attributes, TAKEN[name])
        made = f"MACRO {name}{text}" if name in MACROS else f"VIEW {name} AS {text.format(**filling)}"
        connection.execute(f"CREATE OR REPLACE TEMP {made}").fetchall()


def _with_needs(names: set[str]) -> set[str]:
    """The names and, transitively, those that their texts refer to."""
    needed = names.union(*(named_in((VIEWS | MACROS)[name]) for name in names))
    if any("run_attributes" in (VIEWS | MACROS)[name] for name in names):
        needed.add("attributes")
    return needed if needed == names else _with_needs(needed)
