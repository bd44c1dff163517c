"""The narrow table of training logs, in files of its own beside those of the results.

A row is a value that a trainer logged, or the place up to which a log has been read. Both are published in one file,
so what was read and what is known of it can never part.
"""

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
LOG_SORTED_BY = ("record", "store", "run", "source", "key", "attempt", "entry", "seq")
