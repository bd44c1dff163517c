"""The readings of one run as lines over steps: what a plugin over a run is given of its past."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import numpy as np
from numpy.typing import NDArray

from sounding.errors import SoundingError
from sounding.keeping.listing import in_memory, table_function
from sounding.records import RunInput

Floats: TypeAlias = NDArray[np.float64]

# Of every piece of work under a ground, the newest attempt counts, if it was settled with readings; one publication
# holds one attempt of it. The checkpoints' own rows tell how many updates had been made.
_LINES = """
    WITH mine AS (SELECT * FROM {table} WHERE store = $store AND run = $run),
    counting AS (
        SELECT plugin, checkpoint_id, other_checkpoint_id, seq FROM (
            SELECT plugin, checkpoint_id, other_checkpoint_id, seq, status,
                max(seq) OVER (PARTITION BY identity) AS newest
            FROM mine WHERE record = 'outcome' AND model = $model
                AND (plugin, version, options_hash, basis) IN ({grounds})
        ) WHERE seq = newest AND status = 'ok'
    ), progress AS (
        SELECT checkpoint_id, arg_max(updates, seq) AS updates FROM mine
        WHERE record = 'verdict' AND checkpoint_id IS NOT NULL GROUP BY checkpoint_id
    )
    SELECT r.plugin || '.' || r.metric AS metric, coalesce(r.part, '') AS part, coalesce(r.split, '') AS split,
        coalesce(r."group", '') AS "group", r."index" AS "index", r.step AS step,
        progress.updates::DOUBLE AS updates, r.value AS value
    FROM mine AS r JOIN counting ON r.plugin = counting.plugin AND r.seq = counting.seq
        AND r.checkpoint_id = counting.checkpoint_id
        AND r.other_checkpoint_id IS NOT DISTINCT FROM counting.other_checkpoint_id
    LEFT JOIN progress ON progress.checkpoint_id = r.checkpoint_id
    WHERE r.record = 'reading' AND r.model = $model AND r.value IS NOT NULL
    ORDER BY metric, part, split, "group", "index" NULLS FIRST, step, r.recorded_at"""


@dataclass(frozen=True, slots=True)
class Line:
    """Names one line of readings over a run."""

    metric: str  # "plugin.metric"
    part: str = ""
    split: str = ""
    group: str = ""
    index: int | None = None


@dataclass(frozen=True)
class Course:
    """The values of one line at the checkpoints measured so far, in ascending order of step; arrays of equal length."""

    steps: NDArray[np.int64]
    updates: Floats  # optimizer updates at each step, NaN where no source tells
    values: Floats


def read_courses(given: RunInput, store: str, run: str, model: str) -> dict[Line, Course]:
    """The run's current readings of one network over checkpoints and pairs, by line.

    Reads exactly the files that are given. Of several readings of a line at one step (a checkpoint written anew, a
    pair with another partner), the last recorded counts. Raises SoundingError when a file has been folded away since.
    """
    grounds = [ground for ground in given.grounds if ground.model == model]
    if not given.files or not grounds:
        return {}
    paths = [str(Path(given.results).absolute() / "jobs" / name) for name in given.files]
    told = [value for g in grounds for value in (g.plugin, g.version, g.options_hash, g.basis)]
    named = {f"g{number}": value for number, value in enumerate(told)}
    listed = ", ".join(f"($g{4 * i}, $g{4 * i + 1}, $g{4 * i + 2}, $g{4 * i + 3})" for i in range(len(grounds)))
    sql = _LINES.format(table=table_function(paths), grounds=listed)
    with in_memory({"threads": "1"}) as connection:
        try:
            columns = connection.execute(sql, {"store": store, "run": run, "model": model, **named}).fetchnumpy()
        except duckdb.IOException as error:
            raise SoundingError(f"a file of results was folded away before it was read ({error}).") from error
    return _by_line(columns)


def _by_line(columns: Mapping[str, Any]) -> dict[Line, Course]:
    names = [columns[name].astype(str) for name in ("metric", "part", "split", "group")]
    index = np.ma.filled(columns["index"].astype(np.float64), np.nan)
    steps = columns["step"].astype(np.int64)
    updates = np.ma.filled(columns["updates"].astype(np.float64), np.nan)
    values = np.asarray(columns["value"], dtype=np.float64)
    courses: dict[Line, Course] = {}
    keys = [*names, np.where(np.isnan(index), -np.inf, index)]
    differs = np.zeros(max(len(steps) - 1, 0), dtype=bool)
    for key in keys:
        differs |= key[1:] != key[:-1]
    for rows in np.split(np.arange(len(steps)), np.flatnonzero(differs) + 1) if len(steps) else ():
        last = np.append(steps[rows][1:] != steps[rows][:-1], True)  # the order of recording breaks ties
        kept = rows[last]
        place = None if np.isnan(index[rows[0]]) else int(index[rows[0]])
        metric, part, split, group = (str(name[rows[0]]) for name in names)
        courses[Line(metric, part, split, group, place)] = Course(steps[kept], updates[kept], values[kept])
    return courses
