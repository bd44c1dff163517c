"""Training logs as series over updates: of a run that was begun again, what it went through in the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import duckdb
import numpy as np
from numpy.typing import NDArray

from sounding.keeping.listing import in_memory, job_files, live_names, read_folds, table_function
from sounding.keeping.logbook import LOG_COLUMNS, ROOM

Floats: TypeAlias = NDArray[np.float64]

# A later attempt replaces what earlier ones logged at or beyond its first update: all of the same file, which was
# begun again; of another file only the same keys, as several logs may stand side by side under one setting. Of several
# values at one update, the last one counts.
CHAIN = """
    WITH attempts AS (
        SELECT store, run, source, file, attempt, min(updates) AS start FROM {table} GROUP BY ALL
    ), attempts_of_keys AS (
        SELECT DISTINCT store, run, source, file, key, attempt FROM {table}
    ), later AS (
        SELECT k.store, k.run, k.source, k.file, k.key, k.attempt, min(a.start) AS ends
        FROM attempts_of_keys AS k JOIN attempts AS a
            ON a.store = k.store AND a.run = k.run AND a.source = k.source AND a.attempt > k.attempt
        WHERE a.file = k.file OR EXISTS (
            SELECT 1 FROM attempts_of_keys AS other WHERE other.store = a.store AND other.run = a.run
                AND other.source = a.source AND other.attempt = a.attempt AND other.key = k.key)
        GROUP BY ALL
    )
    SELECT store, run, key, updates, value, source, attempt
    FROM {table} LEFT JOIN later USING (store, run, source, file, key, attempt)
    WHERE ends IS NULL OR updates < ends
    QUALIFY row_number() OVER (PARTITION BY store, run, source, key, updates ORDER BY attempt DESC, entry DESC) = 1"""


@dataclass(frozen=True, slots=True)
class Series:
    """What a run logged under one key: `values` at `updates`, which ascend strictly; arrays of equal length."""

    updates: Floats
    values: Floats  # NaN and infinities as logged
    source: str = ""  # the setting of the log it was read from


def read_series(results_directory: str | Path, store: str, run: str) -> dict[str, Series]:
    """Every key that the run's logs have, as far as they have been read; empty where there are none.

    Only the newest chain of attempts is there: what an attempt logged beyond the point where a later one began is left
    out. Where several logs have the same key, the one that reaches furthest counts, then the longest.
    """
    try:
        return _read(Path(results_directory).absolute() / ROOM, store, run)
    except duckdb.IOException:  # a file was folded away between listing and reading
        return _read(Path(results_directory).absolute() / ROOM, store, run)


def _read(room: Path, store: str, run: str) -> dict[str, Series]:
    names = job_files(room)
    with in_memory({"threads": "1"}) as connection:
        paths = [str(room / name) for name in live_names(names, read_folds(connection, room, names))]
        if not paths:
            return {}
        connection.execute(
            f"CREATE TEMP TABLE logged AS SELECT * FROM {table_function(paths, LOG_COLUMNS)} "
            "WHERE record = 'value' AND store = $store AND run = $run",
            {"store": store, "run": run},
        ).fetchall()
        columns = connection.execute(
            f"SELECT key, source, updates::DOUBLE AS updates, value FROM ({CHAIN.format(table='logged')}) "
            "ORDER BY key, source, updates"
        ).fetchnumpy()
    return _by_key(columns)


def _by_key(columns: Mapping[str, NDArray[np.generic]]) -> dict[str, Series]:
    keys, sources = columns["key"].astype(str), columns["source"].astype(str)
    updates, values = columns["updates"].astype(np.float64), columns["value"].astype(np.float64)
    edges = np.flatnonzero((keys[1:] != keys[:-1]) | (sources[1:] != sources[:-1])) + 1
    series: dict[str, Series] = {}
    for part in np.split(np.arange(len(keys)), edges) if len(keys) else ():
        one = Series(updates[part], values[part], str(sources[part[0]]))
        known = series.get(str(keys[part[0]]))
        if known is None or _reach(one) > _reach(known):
            series[str(keys[part[0]])] = one
    return series


def _reach(series: Series) -> tuple[float, int]:
    return float(series.updates[-1]), len(series.updates)
