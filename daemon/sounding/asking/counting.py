"""How much there is: the counts that a status line shows, in one pass and without touching a single reading."""

from dataclasses import dataclass
from pathlib import Path

from sounding.asking.query import connect, retried

_COUNTS = """
    SELECT record, plugin, status, count(*), sum(readings) FROM (
        SELECT record, plugin, arg_max(status, seq) AS status, arg_max(coalesce(readings, 0), seq) AS readings
        FROM recorded WHERE record IN ('outcome', 'verdict') GROUP BY record, plugin, identity
    ) GROUP BY record, plugin, status ORDER BY ALL"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of the newest verdicts by state, of the newest outcomes by plugin and ending, and of their readings."""

    checkpoints: dict[str, int]
    outcomes: dict[tuple[str, str], int]
    readings: int


def count_results(results: str | Path) -> Counts:
    """Count what the results directory holds at this moment."""
    rows = retried(lambda: _ask(results))
    checkpoints = {status: count for record, _, status, count, _ in rows if record == "verdict"}
    outcomes = {(plugin, status): count for record, plugin, status, count, _ in rows if record == "outcome"}
    return Counts(checkpoints, outcomes, sum(readings for record, _, _, _, readings in rows if record == "outcome"))


def _ask(results: str | Path) -> list[tuple[str, str, str, int, int]]:
    with connect(results, []) as connection:
        return connection.execute(_COUNTS).fetchall()
