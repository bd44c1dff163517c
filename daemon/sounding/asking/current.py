"""Which work is current: the newest setting of a plugin, its newest basis, the newest attempt, the newest horizon.

Readings are many and stale outcomes few, so the views leave out the readings of stale outcomes instead of looking
for those of current ones; where nothing is stale, which is usual, they test nothing at all.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import duckdb

from sounding.asking.views import KEY, columns
from sounding.keeping.listing import quoted
from sounding.keeping.worklist import Network, Work

Setting: TypeAlias = tuple[int, str]  # version and options hash

_STALE = f"""
    CREATE OR REPLACE TEMP TABLE stale AS
    SELECT seq, plugin, model, other_checkpoint_id FROM (
        SELECT seq, status, {columns(KEY)},
            max(seq) OVER (PARTITION BY identity) AS newest,
            arg_max(basis, seq) OVER (PARTITION BY plugin, store, run, model) AS basis_in_force
        FROM recorded WHERE record = 'outcome' AND (plugin, version, options_hash) IN ({{in_force}})
    ) WHERE status IN ('ok', 'skipped') AND (seq < newest OR basis <> basis_in_force)"""

# A plugin's work within one publication is told apart by these few columns. The test of `seq` alone comes first: it is
# cheap, and true of nearly every row (measured over 10M readings: 0.6 s, against 2.5 s for a join by the whole key).
_NOT_STALE = """(seq NOT IN (SELECT seq FROM stale) OR NOT EXISTS (
    SELECT 1 FROM stale WHERE stale.seq = recorded.seq AND stale.plugin = recorded.plugin
        AND stale.model = recorded.model
        AND stale.other_checkpoint_id IS NOT DISTINCT FROM recorded.other_checkpoint_id))"""

# What was measured of a run is passed by whatever was measured of the same run later: a log that was begun again may
# end at a lower horizon than the one before.
_PASSED = """
    CREATE OR REPLACE TEMP TABLE passed AS
    SELECT seq, plugin, model FROM (
        SELECT seq, plugin, model, max(seq) OVER (PARTITION BY plugin, store, run, model) AS newest
        FROM recorded WHERE record = 'outcome' AND plugin IN ({plugins}) AND status IN ('ok', 'skipped')
            AND (plugin, version, options_hash) IN ({in_force})
    ) WHERE seq < newest"""
_NOT_PASSED = "(plugin NOT IN ({plugins}) OR (seq, plugin, model) NOT IN (SELECT seq, plugin, model FROM passed))"


def current(connection: duckdb.DuckDBPyConnection, works: Sequence[Work]) -> str:
    """The SQL that, appended to a WHERE over `recorded`, leaves the readings whose work is current.

    `works` are those of all files, also where `recorded` has those of one run alone.
    """
    in_force = settings_in_force(works)
    conditions = [
        f"(plugin <> {quoted(plugin)} OR (version = {version} AND options_hash = {quoted(options_hash)}))"
        for plugin, (version, options_hash) in sorted(in_force.items())
        if len({(work.version, work.options_hash) for work in works if work.plugin == plugin}) > 1
    ]
    listed = ", ".join(f"({quoted(p)}, {version}, {quoted(h)})" for p, (version, h) in in_force.items())
    if may_be_stale(works, in_force):
        connection.execute(_STALE.format(in_force=listed)).fetchall()
        conditions.append(_NOT_STALE)
    if whole := sorted({work.plugin for work in works if work.whole}):
        plugins = ", ".join(map(quoted, whole))
        connection.execute(_PASSED.format(plugins=plugins, in_force=listed)).fetchall()
        conditions.append(_NOT_PASSED.format(plugins=plugins))
    return "".join(f" AND {condition}" for condition in conditions)


def settings_in_force(works: Sequence[Work]) -> dict[str, Setting]:
    """The setting that counts, by plugin: the last one recorded; without a record, that of its newest outcome."""
    newest: dict[str, Work] = {}
    for work in works:
        known = newest.setdefault(work.plugin, work)
        if (work.record == "setting", work.seq) > (known.record == "setting", known.seq):
            newest[work.plugin] = work
    return {plugin: (work.version, work.options_hash) for plugin, work in newest.items()}


def may_be_stale(works: Sequence[Work], in_force: Mapping[str, Setting]) -> bool:
    """Whether an outcome under a setting in force may be outdated: by a later attempt, or by another basis."""
    bases: dict[tuple[str, Network], str] = {}
    for work in works:
        if work.record != "outcome" or (work.version, work.options_hash) != in_force[work.plugin]:
            continue
        if work.again or any(bases.setdefault((work.plugin, n), work.basis) != work.basis for n in work.networks):
            return True
    return False
