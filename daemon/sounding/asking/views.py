"""The views that people query, as SQL over `recorded`: every row of every file that counts; `logged` is that of logs.

Which work is current is decided by the small tables of `sounding.asking.current`, made once per connection.
"""

from collections.abc import Iterable, Mapping, Sequence

from sounding.keeping.log_schema import CHAIN

KEY = ("plugin", "version", "options_hash", "basis", "over", "checkpoint_id", "other_checkpoint_id", "model")
SUBJECT = ("store", "run", "step", "checkpoint_id", "model", "over",
           "other_run", "other_step", "other_checkpoint_id", "horizon", "members", "log_rows")  # fmt: skip
READING = (
    "store", "run", "step", "checkpoint_id", "model", "other_run", "other_step", "other_checkpoint_id", "horizon",
    "plugin", "version", "options_hash", "metric", "part", "kind", "depth", "index", "group", "value", "label",
    "low", "high", "stderr", "status", "unit", "split", "probe", "seed", "dtype", "device", "recorded_at",
)  # fmt: skip
CURVE = (
    "store", "run", "step", "checkpoint_id", "model", "other_run", "other_step", "other_checkpoint_id", "horizon",
    "plugin", "version", "options_hash", "metric", "part", "kind", "depth", "x", "y", "status", "unit", "split",
    "probe", "seed", "dtype", "device", "recorded_at",
)  # fmt: skip
SKIP = ("store", "run", "step", "checkpoint_id", "model", "plugin", "version", "part", "reason", "recorded_at")
OUTCOME = (*SUBJECT, "plugin", "version", "options_hash", "options", "basis", "status", "reason", "attempt",
           "excused", "readings", "seq", "wall_seconds", "peak_memory_bytes", "probe", "seed", "dtype", "device",
           "code_digest", "recorded_at")  # fmt: skip
VERDICT = (
    "store", "run", "step", "checkpoint_id", "path", "status", "reason", "format", "fingerprint", "size_bytes",
    "ordinal", "first_seen", "step_source", "updates", "updates_source", "epoch", "epoch_source", "tokens",
    "tokens_source", "examples", "examples_source", "wall_time", "wall_time_source", "lr_stored",
    "lr_stored_source", "lr_last", "lr_last_source", "recorded_at",
)  # fmt: skip
_EXAMPLES = {
    "store": "VARCHAR", "run": "VARCHAR", "step": "BIGINT", "checkpoint_id": "VARCHAR", "model": "VARCHAR",
    "probe": "VARCHAR", "split": "VARCHAR", "example": "BIGINT", "metric": "VARCHAR", "value": "DOUBLE",
}  # fmt: skip
LOG = ("store", "run", "attempt", "updates", "key", "value", "source")


def columns(names: Iterable[str], table: str = "") -> str:
    """A select list; `group` and `index` are words of SQL, so every name is quoted."""
    prefix = f"{table}." if table else ""
    return ", ".join(f'{prefix}"{name}"' for name in names)


def _empty(types: Mapping[str, str]) -> str:
    return "SELECT " + ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in types.items()) + " WHERE false"


def _current(record: str, names: Sequence[str]) -> str:
    return f"SELECT {columns(names)} FROM recorded WHERE record = '{record}'{{current}}"


_SAME_SERIES = 'store, run, model, other_run, plugin, metric, part, kind, "index", "group", split'
_LOGGED = "(FROM logged WHERE record = 'value')"
METRIC = """(metric = {0} OR (plugin = split_part({0}, '.', 1) AND metric = substr({0}, strpos({0}, '.') + 1)))"""

# Name → SQL; each refers to `recorded` and to those before it. `{current}` stands for the test that a row's work is
# current, `{attributes}` for a column per attribute of the runs.
VIEWS: dict[str, str] = {
    "outcomes_all": f"SELECT {columns(OUTCOME)} FROM recorded WHERE record = 'outcome'",
    "outcomes": f"""
        SELECT {columns(OUTCOME)}, attempts FROM (
            SELECT {columns(OUTCOME)}, count(*) FILTER (status <> 'redo') OVER same AS attempts,
                row_number() OVER (same ORDER BY seq DESC) AS place
            FROM recorded WHERE record = 'outcome' WINDOW same AS (PARTITION BY identity)
        ) WHERE place = 1""",
    "readings_all": f"SELECT {columns((*READING, 'over', 'basis', 'seq'))} FROM recorded WHERE record = 'reading'",
    "readings": _current("reading", READING),
    "curves": _current("curve", CURVE),
    "skips": _current("skip", SKIP),
    "checkpoints": f"""
        SELECT {columns(VERDICT)} FROM recorded WHERE record = 'verdict'
        QUALIFY row_number() OVER (PARTITION BY identity ORDER BY seq DESC) = 1
            AND (checkpoint_id IS NOT NULL OR seq = max(seq) OVER (PARTITION BY store, path))""",
    "attributes": """
        SELECT store, run, key, number, text, source, recorded_at FROM recorded WHERE record = 'attribute'
        QUALIFY row_number() OVER (PARTITION BY store, run, key, source ORDER BY seq DESC) = 1""",
    "settings": """
        SELECT plugin, version, options_hash, over, options, code_digest, recorded_at FROM recorded
        WHERE record = 'setting' QUALIFY row_number() OVER (PARTITION BY plugin ORDER BY seq DESC) = 1""",
    "runs": """
        SELECT store, run, first_step, last_step, coalesce(checkpoints, 0) AS checkpoints,
            coalesce(measured, 0) AS measured, first_seen{attributes}
        FROM (
            SELECT store, run, min(step) AS first_step, max(step) AS last_step,
                count(DISTINCT checkpoint_id) AS checkpoints, min(first_seen) AS first_seen
            FROM checkpoints GROUP BY store, run
        ) FULL JOIN (
            SELECT store, run, count(*) AS measured FROM outcomes WHERE status = 'ok' GROUP BY store, run
        ) USING (store, run) FULL JOIN run_attributes USING (store, run)""",
    "readings_with_attributes": """
        SELECT readings.*{attributes} FROM readings LEFT JOIN run_attributes USING (store, run)""",
    "examples": _empty(_EXAMPLES),
    "logs": f"SELECT {columns(LOG)} FROM logged WHERE record = 'value'",
    "log_series": f"SELECT {columns(LOG)} FROM ({CHAIN.format(table=_LOGGED)})",
}
# Views of rows that only files with outcomes of the same run hold.
OF_WORK = frozenset({"outcomes_all", "outcomes", "readings_all", "readings", "curves", "skips"})
OF_LOGS = frozenset({"logs", "log_series"})  # views of `logged`, the table of training logs
# Columns that an attribute of the same name would hide; the attribute is then called `run_…`.
TAKEN: dict[str, frozenset[str]] = {
    "runs": frozenset({"store", "run", "first_step", "last_step", "checkpoints", "measured", "first_seen"}),
    "readings_with_attributes": frozenset(READING),
}
# Name → (parameters and body) of a table macro.
MACROS: dict[str, str] = {
    "last": f"""(wanted) AS TABLE
        SELECT * FROM readings WHERE {METRIC.format("wanted")}
        QUALIFY row_number() OVER (PARTITION BY {_SAME_SERIES} ORDER BY step DESC, recorded_at DESC) = 1""",
    "against": f"""(wanted) AS TABLE
        SELECT readings.*, other.metric AS against_metric, other.part AS against_part,
            other.split AS against_split, other.value AS against_value
        FROM readings JOIN (SELECT * FROM readings WHERE {METRIC.format("wanted")}) AS other
            ON readings.checkpoint_id = other.checkpoint_id AND readings.model = other.model
            AND (other.part = '' OR other.part = readings.part)""",
    "at_level": f"""(wanted, crossing, threshold) AS TABLE
        WITH pairs AS (
            SELECT store, run, model, part AS crossing_part, split AS crossing_split, step AS after, value AS high,
                lag(step) OVER series AS before, lag(value) OVER series AS low
            FROM readings WHERE {METRIC.format("crossing")}
            WINDOW series AS (PARTITION BY {_SAME_SERIES} ORDER BY step, recorded_at)
        ), crossings AS (
            SELECT *, (threshold - low) / (high - low) AS way FROM pairs
            WHERE (low < threshold AND high >= threshold) OR (low > threshold AND high <= threshold)
            QUALIFY row_number() OVER (PARTITION BY store, run, model, crossing_part, crossing_split ORDER BY after) = 1
        ), found AS (SELECT * FROM readings WHERE {METRIC.format("wanted")})
        SELECT b.store, b.run, b.model, crossing_part, crossing_split, before + way * (after - before) AS step,
            b.plugin, b.metric, b.part, b.split, a.value + way * (b.value - a.value) AS value, b.unit
        FROM crossings JOIN found AS b ON b.store = crossings.store AND b.run = crossings.run
            AND b.model = crossings.model AND b.step = after
        JOIN found AS a ON a.store = b.store AND a.run = b.run AND a.model = b.model AND a.step = before
            AND a.plugin = b.plugin AND a.metric = b.metric AND a.part = b.part AND a.split = b.split
            AND a."group" IS NOT DISTINCT FROM b."group" AND a."index" IS NOT DISTINCT FROM b."index"
        ORDER BY ALL""",
}
