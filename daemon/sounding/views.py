"""The views that people query, as SQL over `recorded`: every row of every file that counts.

Which work is current is decided by the small tables of `sounding.current`, made once per connection.
"""

from collections.abc import Iterable, Mapping, Sequence

KEY = ("plugin", "version", "options_hash", "basis", "over", "checkpoint_id", "other_checkpoint_id", "model")
SUBJECT = ("store", "run", "step", "checkpoint_id", "model", "over",
           "other_run", "other_step", "other_checkpoint_id", "horizon")  # fmt: skip
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
OUTCOME = (*SUBJECT, "plugin", "version", "options_hash", "options", "basis", "status", "reason", "attempt", "seq",
           "wall_seconds", "peak_memory_bytes", "probe", "seed", "dtype", "device", "code_digest", "recorded_at")  # fmt: skip
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
_LOGS = {
    "store": "VARCHAR", "run": "VARCHAR", "attempt": "BIGINT", "updates": "BIGINT", "key": "VARCHAR",
    "value": "DOUBLE", "source": "VARCHAR",
}  # fmt: skip


def columns(names: Iterable[str], table: str = "") -> str:
    """A select list; `group` and `index` are words of SQL, so every name is quoted."""
    prefix = f"{table}." if table else ""
    return ", ".join(f'{prefix}"{name}"' for name in names)


def _empty(types: Mapping[str, str]) -> str:
    return "SELECT " + ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in types.items()) + " WHERE false"


def _current(record: str, names: Sequence[str]) -> str:
    return f"SELECT {columns(names)} FROM recorded WHERE record = '{record}' AND {{in_force}}{{anti_join}}"


# Name → SQL. Views are made in this order, each of those before it; `{…}` is filled in by `sounding.query`.
VIEWS: dict[str, str] = {
    "outcomes_all": f"SELECT {columns(OUTCOME)} FROM recorded WHERE record = 'outcome'",
    "outcomes": f"""
        SELECT {columns(OUTCOME)}, attempts FROM (
            SELECT *, count(*) FILTER (status <> 'redo') OVER same AS attempts, row_number() OVER newest AS place
            FROM outcomes_all
            WINDOW same AS (PARTITION BY {columns(KEY)}), newest AS (PARTITION BY {columns(KEY)} ORDER BY seq DESC)
        ) WHERE place = 1""",
    "readings_all": f"SELECT {columns((*READING, 'seq', 'basis', 'over'))} FROM recorded WHERE record = 'reading'",
    "readings": _current("reading", READING),
    "curves": _current("curve", CURVE),
    "skips": _current("skip", SKIP),
    "checkpoints": f"""
        SELECT {columns(VERDICT)} FROM recorded WHERE record = 'verdict'
        QUALIFY row_number() OVER (PARTITION BY store, path, checkpoint_id ORDER BY seq DESC) = 1
            AND (checkpoint_id IS NOT NULL OR seq = max(seq) OVER (PARTITION BY store, path))""",
    "attributes": """
        SELECT store, run, key, number, text, source, recorded_at FROM recorded WHERE record = 'attribute'
        QUALIFY row_number() OVER (PARTITION BY store, run, key, source ORDER BY seq DESC) = 1""",
    "settings": """
        SELECT plugin, version, options_hash, over, options, code_digest, recorded_at FROM recorded
        WHERE record = 'setting' QUALIFY row_number() OVER (PARTITION BY plugin ORDER BY seq DESC) = 1""",
    "examples": _empty(_EXAMPLES),
    "logs": _empty(_LOGS),
}
