"""The one wide table all results are kept in: a column is declared here once, with its type and meaning.

A row is an outcome, a reading, a curve, a skip, a sighting's verdict, a run's attribute or a setting in force;
`record` says which, and only the columns of that kind are filled. Types are DuckDB's names.
"""

from dataclasses import dataclass

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the results table."""

    name: str
    type: str  # DuckDB type
    meaning: str


_SUBJECT = (
    Column("store", "VARCHAR", "name of the store"),
    Column("run", "VARCHAR", "name of the run within the store"),
    Column("step", "BIGINT", "ordering number of the checkpoint within its run"),
    Column("checkpoint_id", "VARCHAR", "identity: hash of store, run, step and content fingerprint"),
    Column("model", "VARCHAR", "which network of the checkpoint; empty for the only one"),
    Column("over", "VARCHAR", "what was measured: checkpoint, pair, run or group"),
    Column("other_run", "VARCHAR", "run of the second checkpoint of a pair"),
    Column("other_step", "BIGINT", "step of the second checkpoint of a pair"),
    Column("other_checkpoint_id", "VARCHAR", "identity of the second checkpoint of a pair"),
    Column("horizon", "BIGINT", "last step or logged update that entered a measurement over a run or group"),
    Column("members", "BIGINT", "measurements or checkpoints that entered a measurement over a run or group"),
    Column("log_rows", "BIGINT", "rows of the training log recorded when a run or group was measured"),
)
_WORK = (
    Column("plugin", "VARCHAR", "name of the plugin"),
    Column("version", "BIGINT", "version of the plugin"),
    Column("options_hash", "VARCHAR", "hash of the plugin's options in force"),
    Column("basis", "VARCHAR", "digest of the passes used, with probe hashes and recipe version"),
)
_FOUND = (
    Column("metric", "VARCHAR", "name of the metric, unique within its plugin"),
    Column("part", "VARCHAR", "what was measured inside the network; empty for the whole"),
    Column("kind", "VARCHAR", "type of the layer, where known"),
    Column("depth", "BIGINT", "position of the layer from the input, from 0"),
    Column("index", "BIGINT", "position in a list of values (rank, order)"),
    Column("group", "VARCHAR", "group of examples or parameters"),
    Column("value", "DOUBLE", "the number"),
    Column("label", "VARCHAR", "the label, for metrics that are words"),
    Column("low", "DOUBLE", "lower bound of the value"),
    Column("high", "DOUBLE", "upper bound of the value"),
    Column("stderr", "DOUBLE", "standard error of the value"),
    Column("status", "VARCHAR", "readings and curves: ok, unconverged, unresolved; outcomes: how the attempt ended; "
           "verdicts: complete, pending, abandoned, broken"),
    Column("unit", "VARCHAR", "unit of the value"),
    Column("split", "VARCHAR", "split of the probe (train, heldout)"),
    Column("probe", "VARCHAR", "hash of the probe"),
    Column("seed", "BIGINT", "seed of the measurement"),
    Column("dtype", "VARCHAR", "floating-point type of the model's parameters while measured"),
    Column("device", "VARCHAR", "device of the measurement"),
    Column("x", "DOUBLE[]", "abscissae of a curve"),
    Column("y", "DOUBLE[]", "ordinates of a curve"),
)  # fmt: skip
_ENDED = (
    Column("reason", "VARCHAR", "why: of an outcome, a skip or a verdict, in words"),
    Column("attempt", "BIGINT", "number of the attempt, from 1"),
    Column("excused", "BIGINT", "earlier attempts that ended through nobody's fault: interrupted, gone, superseded"),
    Column("options", "VARCHAR", "the plugin's options in force, JSON"),
    Column("wall_seconds", "DOUBLE", "wall time of the plugin, its passes counted where first used"),
    Column("peak_memory_bytes", "BIGINT", "highest anonymous memory of the worker during the job"),
    Column("code_digest", "VARCHAR", "digest of the plugin's syntax tree"),
    Column("readings", "BIGINT", "outcomes: how many readings were recorded with it"),
)
_CHECKPOINT = (
    Column("path", "VARCHAR", "absolute path of the checkpoint"),
    Column("format", "VARCHAR", "format of the checkpoint"),
    Column("fingerprint", "VARCHAR", "content fingerprint"),
    Column("stamp", "VARCHAR", "stat of every file, JSON: [path, inode, size, mtime_ns]"),
    Column("size_bytes", "BIGINT", "bytes of all files together"),
    Column("asked", "VARCHAR", "sources of attributes that were read with it, JSON"),
    Column("ordinal", "BIGINT", "order in which the run's checkpoints were first seen"),
    Column("first_seen", "TIMESTAMP", "when the daemon first saw it, UTC"),
    Column("step_source", "VARCHAR", "where step was read"),
    Column("updates", "BIGINT", "optimizer updates so far"),
    Column("updates_source", "VARCHAR", "where updates was read"),
    Column("epoch", "DOUBLE", "epochs so far"),
    Column("epoch_source", "VARCHAR", "where epoch was read"),
    Column("tokens", "BIGINT", "tokens seen so far"),
    Column("tokens_source", "VARCHAR", "where tokens was read"),
    Column("examples", "BIGINT", "examples seen so far"),
    Column("examples_source", "VARCHAR", "where examples was read"),
    Column("wall_time", "DOUBLE", "wall time stored in the checkpoint, seconds"),
    Column("wall_time_source", "VARCHAR", "where wall_time was read"),
    Column("lr_stored", "DOUBLE", "learning rate stored in the optimizer: that of the next update"),
    Column("lr_stored_source", "VARCHAR", "where lr_stored was read"),
    Column("lr_last", "DOUBLE", "learning rate of the last update"),
    Column("lr_last_source", "VARCHAR", "where lr_last was read"),
)
_ATTRIBUTE = (
    Column("key", "VARCHAR", "name of a run's attribute"),
    Column("number", "DOUBLE", "its value where it is a number"),
    Column("text", "VARCHAR", "its value as text"),
    Column("source", "VARCHAR", "where it was found"),
)

COLUMNS: tuple[Column, ...] = (
    Column("record", "VARCHAR", "kind of row: outcome, reading, curve, skip, verdict, attribute or setting"),
    Column("seq", "BIGINT", "sequence number of the publication; the greatest counts"),
    Column("recorded_at", "TIMESTAMP", "when the row was written, UTC"),
    Column("identity", "VARCHAR", "outcomes: digest of the key of the work; verdicts: of store, path and checkpoint"),
    *_SUBJECT,
    *_WORK,
    *_FOUND,
    *_ENDED,
    *_CHECKPOINT,
    *_ATTRIBUTE,
)
