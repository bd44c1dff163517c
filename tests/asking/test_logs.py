"""The views of training logs, through every door."""

from pathlib import Path

import duckdb
import pytest
from making import publish_logs, results_in

from sounding import open as open_results
from sounding.asking.query import connect, make_views_of, open_memory
from sounding.asking.readonly import guarded, run_guarded
from sounding.asking.views import LOG
from sounding.errors import SoundingError

TYPES = ["VARCHAR", "VARCHAR", "BIGINT", "BIGINT", "VARCHAR", "DOUBLE", "VARCHAR"]
LOGGED = [("f", 1, 0, "loss", 3.0), ("f", 1, 10, "loss", 2.0), ("f", 2, 10, "loss", 1.5), ("f", 2, 20, "loss", 1.0)]


@pytest.mark.parametrize("view", ["logs", "log_series"])
def test_no_results_give_typed_empty_views(tmp_path: Path, view: str):
    for place in (tmp_path / "none", results_in(tmp_path / "empty").path):
        answer = run_guarded(place, f"FROM {view}")
        assert set(answer.columns) == set(LOG)
        assert dict(zip(answer.columns, answer.types, strict=True)) == dict(zip(LOG, TYPES, strict=True))
        assert answer.rows == []


def test_every_attempt_and_the_chain(tmp_path: Path):
    publish_logs(results_in(tmp_path), 1, LOGGED, source="{run}/m.csv")
    rows = run_guarded(tmp_path, "FROM logs ORDER BY attempt, updates").rows
    assert rows[0] == ("lab", "a", 1, 0, "loss", 3.0, "{run}/m.csv")
    assert [row[2:4] for row in rows] == [(1, 0), (1, 10), (2, 10), (2, 20)]
    chain = run_guarded(tmp_path, "SELECT updates, value FROM log_series ORDER BY updates").rows
    assert chain == [(0, 3.0), (10, 1.5), (20, 1.0)]
    frame = open_results(tmp_path).pandas("SELECT value FROM logs WHERE key = $key ORDER BY value", key="loss")
    assert frame["value"].tolist() == [1.0, 1.5, 2.0, 3.0]


def test_logs_and_readings_in_one_query(tmp_path: Path):
    publish_logs(results_in(tmp_path), 1, LOGGED)
    sql = "SELECT count(*) FROM logs LEFT JOIN readings ON readings.run = logs.run AND readings.step = logs.updates"
    assert run_guarded(tmp_path, sql).rows == [(4,)]


def test_the_read_only_door_opens_the_files_of_logs_and_no_others(tmp_path: Path):
    results = results_in(tmp_path)
    publish_logs(results, 1, LOGGED)
    (name,) = results.logs.files()
    with guarded(tmp_path, ["logs"]) as connection:
        assert connection.execute("SELECT count(*) FROM logs").fetchall() == [(4,)]
        with pytest.raises(duckdb.PermissionException):
            connection.execute(f"FROM read_parquet('{tmp_path / 'logs' / 'other.parquet'}')").fetchall()
        with pytest.raises(duckdb.Error):
            connection.execute(f"COPY (SELECT 1) TO '{results.logs.room / name}'").fetchall()
    with pytest.raises(SoundingError, match="only the results themselves"):
        run_guarded(tmp_path, f"SELECT * FROM read_parquet('{tmp_path}/logs/*.parquet')")


def test_who_asks_for_readings_opens_no_log(tmp_path: Path):
    results = results_in(tmp_path)
    publish_logs(results, 1, LOGGED)
    (name,) = results.logs.files()
    (results.logs.room / name).write_bytes(b"no Parquet at all")
    with open_memory() as connection:
        assert make_views_of(connection, tmp_path, ["readings", "outcomes", "checkpoints", "runs"]) == []
    with connect(tmp_path, ["readings", "runs"]) as connection:
        assert connection.execute("FROM readings").fetchall() == []
