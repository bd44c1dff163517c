"""Which work is current: the newest setting of a plugin, the newest basis of its readings, the newest attempt.

Readings are many and stale outcomes few, so views leave out the readings of stale outcomes instead of looking for
those of current ones; where nothing is stale, they only test the plugins' settings.
"""

import duckdb

from sounding.listing import quoted
from sounding.views import KEY, columns

_WORK = f"""
    CREATE TEMP TABLE work AS
    SELECT record, seq, store, run, status, {columns(KEY)} FROM recorded WHERE record IN ('outcome', 'setting')"""
# A plugin without a recorded setting goes by its newest outcome.
_IN_FORCE = """
    CREATE TEMP TABLE in_force AS
    SELECT DISTINCT ON (plugin) plugin, version, options_hash FROM work
    ORDER BY plugin, record = 'setting' DESC, seq DESC"""
_STALE = f"""
    CREATE TEMP TABLE stale AS
    SELECT seq, {columns(KEY)} FROM (
        SELECT seq, status, {columns(KEY)},
            max(seq) OVER (PARTITION BY {columns(KEY)}) AS newest,
            arg_max(basis, seq) OVER (PARTITION BY plugin, store, run, model) AS basis_in_force
        FROM work SEMI JOIN in_force USING (plugin, version, options_hash) WHERE record = 'outcome'
    ) WHERE status IN ('ok', 'skipped') AND (seq < newest OR basis <> basis_in_force)"""


def prepare_current(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Make the tables, and return the SQL conditions that views of readings take: `in_force` and `anti_join`."""
    for statement in (_WORK, _IN_FORCE, _STALE):
        connection.execute(statement).fetchall()
    settings = connection.execute("SELECT plugin, version, options_hash FROM in_force").fetchall()
    retired = connection.execute("""
        SELECT plugin FROM work GROUP BY plugin HAVING count(DISTINCT (version, options_hash)) > 1""").fetchall()
    changed = {plugin for (plugin,) in retired}
    conditions = [
        f"(plugin <> {quoted(plugin)} OR (version = {version} AND options_hash = {quoted(options_hash)}))"
        for plugin, version, options_hash in settings
        if plugin in changed
    ]
    stale = connection.execute("SELECT count(*) FROM stale").fetchall()[0][0]
    same = " AND ".join(f'stale."{name}" IS NOT DISTINCT FROM recorded."{name}"' for name in ("seq", *KEY))
    anti = f" AND NOT EXISTS (SELECT 1 FROM stale WHERE {same})" if stale else ""
    return {"in_force": " AND ".join(conditions) or "true", "anti_join": anti}
