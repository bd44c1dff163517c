"""`query`: formats, destinations, and what the read-only door refuses."""

import csv
import io
import json

import duckdb
import pytest
from cli.lab import LOSSES, Lab

SQL = "SELECT run, step, value FROM readings WHERE split = 'train' AND run = 'fast' ORDER BY step"


def test_a_table_aligns_numbers(lab: Lab) -> None:
    text = [line.rstrip() for line in lab.run("query", SQL).splitlines()]
    assert text == [
        "run    step   value",
        "───────────────────",
        "fast      0   2.302",
        "fast    100   1.000",
        "fast    200   0.500",
        "fast    300   0.250",
    ]


def test_json_and_csv_give_the_same_rows_in_full_precision(lab: Lab) -> None:
    rows = json.loads(lab.run("query", SQL, "--format", "json"))
    assert [row["value"] for row in rows] == list(LOSSES["train"])
    assert lab.json("query", SQL) == rows
    read = list(csv.DictReader(io.StringIO(lab.run("query", SQL, "--format", "csv"))))
    assert [(row["run"], int(row["step"]), float(row["value"])) for row in read] == [
        tuple(row.values()) for row in rows
    ]


def test_parquet_goes_to_a_file_and_keeps_types(lab: Lab) -> None:
    sql = "SELECT run, step, value, NULL::DOUBLE AS nothing, recorded_at FROM readings WHERE split = 'train'"
    lab.run("query", sql, "--format", "parquet", "--output", str(lab.path / "out.parquet"))
    with duckdb.connect() as connection:
        relation = connection.execute(f"SELECT * FROM '{lab.path}/out.parquet' ORDER BY value")
        types = [str(column[1]) for column in relation.description]
        rows = relation.fetchall()
    assert types == ["VARCHAR", "BIGINT", "DOUBLE", "DOUBLE", "TIMESTAMP"]
    assert [row[2] for row in rows] == [0.25, 0.5, 1.0, 2.0, 2.302]


def test_parquet_of_no_rows_keeps_its_columns(lab: Lab) -> None:
    lab.run("query", f"SELECT * FROM ({SQL}) WHERE false", "--format", "parquet", "-o", str(lab.path / "none.parquet"))
    with duckdb.connect() as connection:
        described = connection.execute(f"DESCRIBE SELECT * FROM '{lab.path}/none.parquet'").fetchall()
    assert [column[:2] for column in described] == [("run", "VARCHAR"), ("step", "BIGINT"), ("value", "DOUBLE")]


def test_parquet_on_a_screen_is_wrong_usage(lab: Lab) -> None:
    assert "--output" in lab.error("query", SQL, "--format", "parquet", code=2)


def test_a_table_can_go_to_a_file(lab: Lab) -> None:
    lab.run("query", SQL, "--output", str(lab.path / "out.txt"))
    assert "2.302" in (lab.path / "out.txt").read_text(encoding="utf-8")


def test_sql_is_read_from_standard_input(lab: Lab) -> None:
    assert json.loads(lab.run("query", "-", "--json", stdin="SELECT 41 + 1 AS answer")) == [{"answer": 42}]


def test_columns_of_one_name_are_all_kept(lab: Lab) -> None:
    assert lab.json("query", "SELECT 1 AS x, 2 AS x, 3 AS x") == [{"x": 1, "x_2": 2, "x_3": 3}]


@pytest.mark.parametrize("sql", ["DROP VIEW readings", "SELECT 1; SELECT 2", "COPY readings TO '{path}/stolen.csv'"])
def test_what_is_not_one_question_is_refused(lab: Lab, sql: str) -> None:
    assert "query:" in lab.error("query", sql.format(path=lab.path))
    assert not (lab.path / "stolen.csv").exists()


def test_other_files_cannot_be_read(lab: Lab) -> None:
    (lab.path / "secret.csv").write_text("a\n1\n", encoding="utf-8")
    assert "only the results" in lab.error("query", f"SELECT * FROM read_csv('{lab.path}/secret.csv')")


def test_no_results_yet_is_an_empty_table(empty_lab: Lab) -> None:
    result = empty_lab.outcome("query", "SELECT run, value FROM readings")
    assert (result.exit_code, result.stdout.splitlines()[0].split()) == (0, ["run", "value"])
    assert "no rows" in result.stderr
