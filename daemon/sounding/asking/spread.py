"""Attributes of runs spread out: a table with one row per run and one column per attribute."""

from collections.abc import Collection

import duckdb

_KEYS = """
    SELECT key, bool_and(plain) AS plain, bool_and(plain AND whole) AS whole FROM (
        SELECT key, count(number) = count(*) AND count(DISTINCT number) = 1 AS plain,
            coalesce(bool_and(number = trunc(number) AND abs(number) < 9e15), false) AS whole
        FROM attributes GROUP BY store, run, key
    ) GROUP BY key ORDER BY key"""


def spread_attributes(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Make the table `run_attributes` from the view `attributes`, and return the names of its columns.

    A column is numeric where every run has exactly one value and all are numbers; otherwise it is text, and several
    values of one run are shown as "a | b".
    """
    used: set[str] = {"store", "run"}
    named: list[str] = []
    values: list[str] = []
    for key, plain, whole in connection.execute(_KEYS).fetchall():
        name = free_name(key, used)
        used.add(name.lower())
        named.append(name)
        is_key = "key = '" + key.replace("'", "''") + "'"
        value = f"string_agg(DISTINCT text, ' | ' ORDER BY text) FILTER ({is_key})"
        if plain:
            value = f"any_value(number) FILTER ({is_key}){'::BIGINT' if whole else ''}"
        values.append(f", {value} AS {identifier(name)}")
    wide = f"SELECT store, run{''.join(values)} FROM attributes GROUP BY store, run"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE run_attributes AS {wide}").fetchall()
    return named


def spread_columns(names: Collection[str], taken: Collection[str]) -> str:
    """The attributes as the end of a select list, under names that hide none of the columns `taken`."""
    used = {name.lower() for name in taken}
    parts: list[str] = []
    for name in names:
        shown = free_name(name, used)
        used.add(shown.lower())
        parts.append(f", run_attributes.{identifier(name)} AS {identifier(shown)}")
    return "".join(parts)


def free_name(name: str, used: Collection[str]) -> str:
    """The name, or one like it: SQL takes names that differ only in case for one."""
    while name.lower() in used:
        name = f"run_{name}"
    return name


def identifier(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
