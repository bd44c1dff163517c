"""`sounding.open`: relations, Arrow and pandas over the results, and what a query costs in imports."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sounding
from sounding.records import Reading, State


def fill(lab: Any) -> None:
    for step, loss in ((0, 2.0), (10, 1.0), (20, 0.5)):
        lab.verdict(lab.checkpoint("a", step), State.COMPLETE)
        lab.measured("loss", lab.checkpoint("a", step), loss)
    lab.measured("weights", lab.checkpoint("a", 20), Reading("norm", 7.0, part="fc"), Reading("norm", 8.0, part="conv"))


def test_sql_gives_a_relation_to_go_on_with(lab: Any):
    fill(lab)
    relation = sounding.open(lab.results.path).sql("SELECT step, value FROM readings WHERE metric = $m", m="loss")
    assert relation.filter("step > 5").order("step").fetchall() == [(10, 1.0), (20, 0.5)]


def test_a_relation_stays_what_it_was_when_files_are_folded_away(lab: Any):
    fill(lab)
    relation = sounding.open(lab.results.path).sql("FROM readings")
    for path in lab.results.jobs.iterdir():
        path.unlink()
    assert relation.aggregate("count(*)").fetchall() == [(5,)]


def test_arrow_and_pandas(lab: Any):
    fill(lab)
    asked = sounding.open(lab.results.path)
    sql = "SELECT step, value FROM readings WHERE metric = 'loss' ORDER BY step"
    assert asked.arrow(sql).to_pydict() == {"step": [0, 10, 20], "value": [2.0, 1.0, 0.5]}
    assert asked.pandas(sql)["value"].tolist() == [2.0, 1.0, 0.5]


def test_series_and_readings(lab: Any):
    fill(lab)
    asked = sounding.open(str(lab.results.path))
    assert asked.series("a", "loss").project("step, value").fetchall() == [(0, 2.0), (10, 1.0), (20, 0.5)]
    assert asked.series("a", "weights.norm").project("part, value").fetchall() == [("conv", 8.0), ("fc", 7.0)]
    assert asked.readings(run="a", part="fc").project("value").fetchall() == [(7.0,)]
    with pytest.raises(sounding.SoundingError, match="no column stpe; there are store, run, step"):
        asked.readings(stpe=1)


@pytest.mark.parametrize("sql", ["COPY (SELECT 1) TO 'x'", "SELECT 1; SELECT 2", "SELECT stpe FROM readings"])
def test_only_right_selects_are_answered(lab: Any, sql: str):
    with pytest.raises(sounding.SoundingError):
        sounding.open(lab.results.path).sql(sql)


def test_a_path_without_results_is_said(tmp_path: Path):
    with pytest.raises(sounding.SoundingError, match=r"nowhere: no such directory.*\[results\] in sounding.toml"):
        sounding.open(tmp_path / "nowhere")


def test_queries_import_nothing_heavy(lab: Any):
    fill(lab)
    program = """
import sys
import sounding
assert "duckdb" not in sys.modules, "import sounding brought DuckDB"
from sounding.asking.readonly import run_guarded
rows = run_guarded(sys.argv[1], "SELECT count(*) FROM readings").rows
sounding.open(sys.argv[1]).series("a", "loss").fetchall()
print(rows[0][0], sorted({"torch", "pyarrow", "pandas", "numpy"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, str(lab.results.path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "5 []\n"
