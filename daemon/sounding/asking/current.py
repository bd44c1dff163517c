"""Which work is current: the newest setting of a plugin, the newest basis of its readings, the newest attempt.

Readings are many and stale outcomes few, so the views leave out the readings of stale outcomes instead of looking
for those of current ones; where nothing is stale, which is usual, they test nothing at all.
"""

import duckdb

from sounding.asking.views import KEY, columns
from sounding.keeping.listing import quoted

# One row per plugin, setting, basis and run; `kinds` < `attempts` means that some subject was attempted again.
_WORK = """
    CREATE OR REPLACE TEMP TABLE work AS
    SELECT record, plugin, version, options_hash, basis, store, run, model, max(seq) AS seq, count(*) AS attempts,
        count(DISTINCT identity) AS kinds
    FROM recorded WHERE record IN ('outcome', 'setting') GROUP BY ALL"""
# A plugin without a recorded setting goes by its newest outcome.
_IN_FORCE = """
    CREATE OR REPLACE TEMP TABLE in_force AS
    SELECT DISTINCT ON (plugin) plugin, version, options_hash FROM work
    ORDER BY plugin, record = 'setting' DESC, seq DESC"""
_RETIRED = """
    SELECT plugin, in_force.version, in_force.options_hash FROM in_force JOIN work USING (plugin)
    GROUP BY ALL HAVING count(DISTINCT (work.version, work.options_hash)) > 1 ORDER BY plugin"""
_REPEATED = """
    SELECT count(*) FROM (
        SELECT attempts, kinds, count(*) OVER (PARTITION BY plugin, store, run, model) AS bases
        FROM work SEMI JOIN in_force USING (plugin, version, options_hash) WHERE record = 'outcome'
    ) WHERE kinds < attempts OR bases > 1"""
_STALE = f"""
    CREATE OR REPLACE TEMP TABLE stale AS
    SELECT seq, plugin, model, other_checkpoint_id FROM (
        SELECT seq, status, {columns(KEY)},
            max(seq) OVER (PARTITION BY identity) AS newest,
            arg_max(basis, seq) OVER (PARTITION BY plugin, store, run, model) AS basis_in_force
        FROM (SELECT * FROM recorded WHERE record = 'outcome') SEMI JOIN in_force USING (plugin, version, options_hash)
    ) WHERE status IN ('ok', 'skipped') AND (seq < newest OR basis <> basis_in_force)"""

# A plugin's work within one publication is told apart by these few columns. The test of `seq` alone comes first: it is
# cheap, and true of nearly every row (measured over 10M readings: 0.6 s, against 2.5 s for a join by the whole key).
_NOT_STALE = """(seq NOT IN (SELECT seq FROM stale) OR NOT EXISTS (
    SELECT 1 FROM stale WHERE stale.seq = recorded.seq AND stale.plugin = recorded.plugin
        AND stale.model = recorded.model
        AND stale.other_checkpoint_id IS NOT DISTINCT FROM recorded.other_checkpoint_id))"""


def current(connection: duckdb.DuckDBPyConnection) -> str:
    """The SQL that, appended to a WHERE over `recorded`, leaves the readings whose work is current."""
    for statement in (_WORK, _IN_FORCE):
        connection.execute(statement).fetchall()
    conditions = [
        f"(plugin <> {quoted(plugin)} OR (version = {version} AND options_hash = {quoted(options_hash)}))"
        for plugin, version, options_hash in connection.execute(_RETIRED).fetchall()
    ]
    if connection.execute(_REPEATED).fetchall() != [(0,)]:
        connection.execute(_STALE).fetchall()
        conditions.append(_NOT_STALE)
    return "".join(f" AND {condition}" for condition in conditions)
