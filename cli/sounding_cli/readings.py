"""The readings that a person names by run and metric, or an error that says which of the names nobody has."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sounding.errors import SoundingError
from sounding_cli.ask import Row, ask, unknown

_READINGS = """
    SELECT store, run, step, checkpoint_id, model, plugin, version, metric, part, kind, depth, "index", "group",
        other_run, other_step, horizon, value, label, low, high, stderr, status, unit, split, recorded_at
    FROM readings WHERE """


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; `run` may be STORE:RUN, and a metric `metric`, `plugin` or `plugin.metric`, with `*`."""

    run: str
    metrics: tuple[str, ...] = ()
    part: str | None = None
    split: str | None = None


def readings(results: Path, wanted: Wanted) -> list[Row]:
    """The readings of one run. Raises SoundingError when there are none, saying what there is instead."""
    rows = _found(results, None, wanted.run, wanted)
    if not rows and ":" in wanted.run:
        store, _, run = wanted.run.partition(":")
        rows = _found(results, store, run, wanted)
    stores = sorted({str(row["store"]) for row in rows})
    if len(stores) > 1:
        named = " or ".join(f"{store}:{wanted.run}" for store in stores)
        raise SoundingError(f"run {wanted.run!r} is in {len(stores)} stores; say which: {named}.")
    missing = [metric for metric in wanted.metrics if not any(_is(row, metric) for row in rows)]
    if not rows or missing:
        raise _nothing(results, wanted, missing)
    return rows


def _found(results: Path, store: str | None, run: str, wanted: Wanted) -> list[Row]:
    conditions, values = ["run = ?"], [run]
    for condition, value in (("store = ?", store), ("part GLOB ?", wanted.part), ("split = ?", wanted.split)):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if wanted.metrics:
        either = "metric GLOB ? OR plugin GLOB ? OR plugin || '.' || metric GLOB ?"
        conditions.append(f"({' OR '.join(either for _ in wanted.metrics)})")
        values += [metric for metric in wanted.metrics for _ in range(3)]
    return ask(results, f"{_READINGS}{' AND '.join(conditions)} ORDER BY store, step", values, run)


def _is(row: Row, metric: str) -> bool:
    names = (str(row["metric"]), str(row["plugin"]), f"{row['plugin']}.{row['metric']}")
    return any(fnmatchcase(name, metric) for name in names)


def _nothing(results: Path, wanted: Wanted, missing: Sequence[str]) -> SoundingError:
    run = wanted.run.rpartition(":")[2]
    names = [str(row["run"]) for row in ask(results, "SELECT DISTINCT run FROM checkpoints ORDER BY run")]
    if not names:
        return SoundingError(
            f"no readings yet in {results}: `sounding watch` measures, `sounding status` shows how far."
        )
    if wanted.run not in names and run not in names:
        return unknown("run", wanted.run, names, "sounding runs")
    known = ask(results, "SELECT DISTINCT plugin, metric FROM readings WHERE run IN (?, ?)", [wanted.run, run])
    if not known:
        return SoundingError(
            f"run {wanted.run!r} has no readings yet: `sounding why {wanted.run}@STEP` says why, "
            f"`sounding checkpoints --run {wanted.run}` lists its checkpoints."
        )
    for metric in missing:
        if not any(_is(row, metric) for row in known):
            return _unknown_metric(metric, known)
    limits = " and ".join(
        f"{key} {value!r}" for key, value in (("part", wanted.part), ("split", wanted.split)) if value
    )
    return SoundingError(f"run {wanted.run!r} has no such reading of {limits or 'these metrics'}; try without.")


def _unknown_metric(metric: str, known: Sequence[Row]) -> SoundingError:
    full = {f"{row['plugin']}.{row['metric']}" for row in known}
    short = {str(row["metric"]) for row in known} | {str(row["plugin"]) for row in known}
    return unknown("metric", metric, sorted(full if "." in metric else short), "sounding metrics")
