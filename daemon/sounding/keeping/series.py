"""Training logs as series over updates: of a run that was begun again, what it went through in the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import numpy as np
from numpy.typing import NDArray

from sounding.keeping.listing import in_memory, job_files, live_names, read_folds, table_function
from sounding.keeping.log_schema import CHAIN, LOG_COLUMNS, ROOM

Floats: TypeAlias = NDArray[np.float64]


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


def _by_key(columns: Mapping[str, Any]) -> dict[str, Series]:
    keys, sources = (np.asarray(columns[name], dtype=str) for name in ("key", "source"))
    updates, values = (np.asarray(columns[name], dtype=np.float64) for name in ("updates", "value"))
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
