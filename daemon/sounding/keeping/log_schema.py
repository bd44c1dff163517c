"""The narrow table of training logs: its columns, and what of it a run went through in the end."""

from sounding.keeping.schema import Column

ROOM = "logs"  # under the results directory

LOG_COLUMNS = (
    Column("record", "VARCHAR", "kind of row: value, or place where a place in a file was reached"),
    Column("seq", "BIGINT", "sequence number of the publication; the greatest place of a file counts"),
    Column("recorded_at", "TIMESTAMP", "when the row was written, UTC"),
    Column("store", "VARCHAR", "name of the store"),
    Column("run", "VARCHAR", "name of the run within the store"),
    Column("source", "VARCHAR", "the setting under which the log was found"),
    Column("file", "VARCHAR", "the log: its path below the store"),
    Column("attempt", "BIGINT", "counts, from 1, how often the source's log was begun again"),
    Column("updates", "BIGINT", "optimizer updates, as the log counts them"),
    Column("key", "VARCHAR", "name of the quantity, as the log names it"),
    Column("value", "DOUBLE", "the number"),
    Column("entry", "BIGINT", "number of the entry in the file, from 0"),
    Column("state", "VARCHAR", "places: what is needed to read on from here, JSON"),
)

# A later attempt replaces what earlier ones logged at or beyond its first update: all of the same file, which was
# begun again; of another file only the same keys, as several logs may stand side by side under one setting. Entries
# before which a file that was written anew had not changed stay, even at that very update. Of several values at one
# update, the last one counts.
CHAIN = """
    WITH attempts AS (
        SELECT store, run, source, file, attempt, min(updates) AS start, min(entry) AS first, max(entry) AS last
        FROM {table} GROUP BY ALL
    ), begun AS (
        SELECT *, CASE WHEN first <= max(last) OVER (
            PARTITION BY store, run, source, file ORDER BY attempt ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) THEN first ELSE 0 END AS unchanged FROM attempts
    ), of_keys AS (
        SELECT DISTINCT store, run, source, file, key, attempt FROM {table}
    ), later AS (
        SELECT k.store, k.run, k.source, k.file, k.key, k.attempt, a.start,
            CASE WHEN a.file = k.file THEN a.unchanged ELSE 0 END AS unchanged
        FROM of_keys AS k JOIN begun AS a
            ON a.store = k.store AND a.run = k.run AND a.source = k.source AND a.attempt > k.attempt
        WHERE a.file = k.file OR EXISTS (
            SELECT 1 FROM of_keys AS other WHERE other.store = a.store AND other.run = a.run
                AND other.source = a.source AND other.attempt = a.attempt AND other.key = k.key)
    )
    SELECT store, run, key, updates, value, source, attempt FROM {table} AS logged_value
    WHERE NOT EXISTS (
        SELECT 1 FROM later WHERE later.store = logged_value.store AND later.run = logged_value.run
            AND later.source = logged_value.source AND later.file = logged_value.file AND later.key = logged_value.key
            AND later.attempt = logged_value.attempt AND logged_value.updates >= later.start
            AND logged_value.entry >= later.unchanged)
    QUALIFY row_number() OVER (PARTITION BY store, run, source, key, updates ORDER BY attempt DESC, entry DESC) = 1"""
