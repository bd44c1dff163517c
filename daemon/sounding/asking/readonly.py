"""The read-only door: SQL from a person, over the results' own files and nothing else on the machine."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from sounding.asking.query import NAMES, connect, make_views_of, named_in, open_memory, retried
from sounding.asking.views import VIEWS
from sounding.errors import SoundingError
from sounding.keeping.listing import quoted

NOWHERE = os.devnull  # a results directory without files
_EXPLAIN = re.compile(r"\A\s*explain\s+(analyze\s+|\([^()]*\)\s*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer to a query: names and DuckDB types of its columns, and its rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[object, ...]]


def guarded(results: str | Path, names: Iterable[str] = NAMES) -> duckdb.DuckDBPyConnection:
    """A connection that can read the results' files and no other, can write nothing, and cannot be told otherwise."""
    connection = open_memory()
    guard(connection, results, names)
    return connection


def guard(connection: duckdb.DuckDBPyConnection, results: str | Path, names: Iterable[str]) -> None:
    """Make the views, and lock the connection to their files."""
    paths = make_views_of(connection, results, names)
    listed = ", ".join(quoted(path) for path in paths)
    connection.execute(f"SET allowed_paths = [{listed}]").fetchall()
    connection.execute("SET enable_external_access = false").fetchall()
    connection.execute("SET lock_configuration = true").fetchall()


def run_guarded(results: str | Path, sql: str) -> Answer:
    """Answer one SELECT (or explain it).

    Raises SoundingError when the SQL is anything else, reaches outside the results, or is wrong.
    """
    return retried(lambda: _answer(results, sql))


def refuse_all_but_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise SoundingError unless the SQL is exactly one SELECT, or EXPLAIN of one.

    EXPLAIN ANALYZE runs what it explains, and a COPY in it would write: what is explained is looked at by itself.
    """
    explained = _EXPLAIN.sub("", sql, count=1)
    types = _statement_types(connection, sql)
    if types == [duckdb.StatementType.EXPLAIN]:
        types = _statement_types(connection, explained)
    if len(types) != 1:
        raise SoundingError(f"query: found {len(types)} statements, expected exactly one SELECT; ask them one by one.")
    if types[0] != duckdb.StatementType.SELECT:
        raise SoundingError(
            f"query: found a statement of type {types[0].name}, expected a SELECT; results are read-only here. "
            "To keep an answer, write the output of the query to a file."
        )


def in_words(error: duckdb.Error, sql: str) -> SoundingError:
    """What went wrong with a person's SQL, with the columns of the views it names."""
    text = str(error)
    if isinstance(error, duckdb.PermissionException):
        return SoundingError(f"query: only the results themselves can be read here. {text}")
    views = sorted(named_in(sql) & set(VIEWS))
    if not views:
        return SoundingError(f"query: {text}\nThere are the views {', '.join(VIEWS)}.")
    return SoundingError(f"query: {text}" + "".join(f"\n{view} has the columns {_columns(view)}." for view in views))


def _answer(results: str | Path, sql: str) -> Answer:
    with open_memory() as connection:
        refuse_all_but_reading(connection, sql)
        guard(connection, results, named_in(sql))
        try:
            cursor = connection.execute(sql)
            rows = cursor.fetchall()
        except duckdb.IOException:
            raise  # a file has gone: the caller lists again
        except duckdb.Error as error:
            raise in_words(error, sql) from error
        described = cursor.description or []
        return Answer(tuple(column[0] for column in described), tuple(str(column[1]) for column in described), rows)


def _statement_types(connection: duckdb.DuckDBPyConnection, sql: str) -> list[duckdb.StatementType]:
    try:
        return [statement.type for statement in connection.extract_statements(sql)]
    except duckdb.Error as error:
        raise in_words(error, sql) from error


def _columns(view: str) -> str:
    """The columns of a view, as it is over no results at all: attributes are then not among them."""
    with connect(NOWHERE, [view]) as connection:
        described = connection.execute(f"SELECT * FROM {view}").description or []
        return ", ".join(str(column[0]) for column in described)
