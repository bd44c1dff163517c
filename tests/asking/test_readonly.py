"""The read-only door: what a person's SQL can reach, and what is said when it reaches further."""

from pathlib import Path
from typing import Any

import duckdb
import pytest

from sounding.asking.readonly import guarded, run_guarded
from sounding.errors import SoundingError

PROTECTED = "kept as it was"


def measure(lab: Any) -> Path:
    """One published reading, and the path of its file."""
    name = lab.measured("loss", lab.checkpoint(step=3), 0.5)
    return Path(lab.results.jobs / name)


def test_an_answer_has_columns_types_and_rows(lab: Any):
    measure(lab)
    answer = run_guarded(lab.results.path, "SELECT step, value FROM readings; ")
    assert answer.columns == ("step", "value")
    assert answer.types == ("BIGINT", "DOUBLE")
    assert answer.rows == [(3, 0.5)]


@pytest.mark.parametrize(
    "sql",
    ["FROM readings", "WITH r AS (FROM readings) FROM r", "DESCRIBE readings", "SUMMARIZE readings", "SHOW TABLES"],
)
def test_every_form_of_reading_is_answered(lab: Any, sql: str):
    measure(lab)
    assert run_guarded(lab.results.path, sql).rows


@pytest.mark.parametrize(
    "sql", ["EXPLAIN FROM readings", "explain analyze SELECT 1", "EXPLAIN (ANALYZE, FORMAT json) FROM readings"]
)
def test_a_select_is_explained(lab: Any, sql: str):
    measure(lab)
    assert len(run_guarded(lab.results.path, sql).rows[0]) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM read_parquet('{other}')",
        "SELECT * FROM read_parquet('{folder}/*.parquet')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM parquet_metadata('{other}')",
    ],
)
def test_other_files_cannot_be_read(lab: Any, tmp_path: Path, sql: str):
    listed = measure(lab)
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    other = tmp_path / "other.parquet"
    other.write_bytes(listed.read_bytes())
    names = {"secret": tmp_path / "secret.csv", "other": other, "folder": tmp_path}
    with pytest.raises(SoundingError, match="only the results themselves can be read here"):
        run_guarded(lab.results.path, sql.format(**names))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("COPY (SELECT 1) TO '{target}'", "type COPY, expected a SELECT"),
        ("COPY (SELECT 1) TO '{listed}'", "type COPY"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{listed}' (USE_TMP_FILE false)", "type COPY"),
        ("EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{listed}' (USE_TMP_FILE false)", "type COPY"),
        ("EXPLAIN /* */ ANALYZE COPY (SELECT 1) TO '{listed}' (USE_TMP_FILE false)", "query: "),
        ("/* */ EXPLAIN ANALYZE COPY (SELECT 1) TO '{listed}' (USE_TMP_FILE false)", "type EXPLAIN"),
        ("EXPLAIN EXPLAIN ANALYZE COPY (SELECT 1) TO '{listed}'", "query: "),
        ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", "type CREATE"),
        ("ATTACH '{target}'", "type ATTACH"),
        ("INSTALL httpfs", "type LOAD"),
        ("LOAD httpfs", "type LOAD"),
        ("SET enable_external_access = true", "type SET"),
        ("RESET lock_configuration", "type SET"),
        ("PRAGMA database_list", "expected a SELECT"),
        ("CALL duckdb_settings()", "type CALL"),
        ("CREATE TABLE t AS SELECT 1", "type CREATE"),
        ("DROP VIEW readings", "type DROP"),
        ("INSERT INTO readings VALUES (1)", "type INSERT"),
        ("EXPORT DATABASE '{target}'", "type EXPORT"),
        ("SELECT 1; SELECT 2", "found 2 statements"),
        ("SELECT 1; COPY (SELECT 1) TO '{target}'", "found 2 statements"),
        ("", "found 0 statements"),
    ],
)
def test_nothing_can_be_changed(lab: Any, tmp_path: Path, sql: str, said: str):
    listed = measure(lab)
    before = listed.read_bytes()
    with pytest.raises(SoundingError) as error:
        run_guarded(lab.results.path, sql.format(target=tmp_path / "out", listed=listed))
    assert said in str(error.value)
    assert listed.read_bytes() == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{target}'",
        "ATTACH '{target}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET allowed_paths = ['/etc/passwd']",
        "SET temp_directory = '/tmp'",
        "SELECT * FROM read_text('/etc/passwd')",
    ],
)
def test_the_connection_itself_refuses_too(lab: Any, tmp_path: Path, sql: str):
    measure(lab)
    with guarded(lab.results.path) as connection, pytest.raises(duckdb.Error):
        connection.execute(sql.format(target=tmp_path / "out")).fetchall()
    assert not (tmp_path / "out").exists()


def test_variables_of_the_process_are_no_tables(lab: Any):
    readings_of_ours = duckdb.sql("SELECT 42 AS secret")
    assert readings_of_ours.fetchall() == [(42,)]
    with pytest.raises(SoundingError, match="readings_of_ours does not exist"):
        run_guarded(lab.results.path, "FROM readings_of_ours")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT stpe FROM readings", ["stpe", "readings has the columns store, run, step,", "recorded_at."]),
        ("SELECT lr FROM runs", ["runs has the columns store, run, first_step"]),
        ("SELECT * FROM reedings", ["reedings", "There are the views", "readings, "]),
        ("SELEKT 1", ["syntax error"]),
        ("SELECT 'a'::BIGINT", ["Could not convert"]),
    ],
)
def test_mistakes_are_explained_with_what_there_is(lab: Any, sql: str, said: list[str]):
    with pytest.raises(SoundingError) as error:
        run_guarded(lab.results.path, sql)
    assert [part for part in said if part not in str(error.value)] == []


def test_an_empty_results_directory_is_answered(tmp_path: Path):
    assert run_guarded(tmp_path, "SELECT count(*) FROM readings").rows == [(0,)]
