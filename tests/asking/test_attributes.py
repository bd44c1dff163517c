"""Attributes of runs as columns: their types, their conflicts and their names."""

from typing import Any

from sounding.records import State


def test_runs_have_a_column_per_attribute(lab: Any):
    for run, rate, seed in (("a", "0.1", "0"), ("b", "1e-2", "1")):
        lab.verdict(lab.checkpoint(run, 5), State.COMPLETE)
        lab.verdict(lab.checkpoint(run, 9), State.COMPLETE)
        lab.attribute(run, "lr", rate, number=float(rate))
        lab.attribute(run, "seed", seed, number=float(seed))
        lab.attribute(run, "optimizer", "sgd")
    lab.measured("loss", lab.checkpoint("a", 9), 1.0)
    asked = "SELECT run, first_step, last_step, checkpoints, measured, lr, seed, optimizer FROM runs ORDER BY run"
    assert lab.ask(asked) == [("a", 5, 9, 2, 1, 0.1, 0, "sgd"), ("b", 5, 9, 2, 0, 0.01, 1, "sgd")]
    assert dict(lab.ask("SELECT column_name, column_type FROM (DESCRIBE runs)"))["seed"] == "BIGINT"


def test_conflicting_values_are_shown_together_as_text(lab: Any):
    lab.attribute("a", "lr", "0.1", "path", 0.1)
    lab.attribute("a", "lr", "0.2", "config.yaml", 0.2)
    lab.attribute("b", "lr", "0.3", "path", 0.3)
    assert lab.ask("SELECT run, lr FROM runs ORDER BY run") == [("a", "0.1 | 0.2"), ("b", "0.3")]


def test_the_same_number_written_twice_is_no_conflict(lab: Any):
    lab.attribute("a", "lr", "0.1", "path", 0.1)
    lab.attribute("a", "lr", "1e-1", "config.yaml", 0.1)
    assert lab.ask("SELECT lr FROM runs") == [(0.1,)]


def test_a_later_value_from_the_same_place_replaces_the_earlier(lab: Any):
    lab.attribute("a", "lr", "0.1", "config.yaml", 0.1)
    lab.attribute("a", "lr", "0.2", "config.yaml", 0.2)
    assert lab.ask("SELECT lr FROM runs") == [(0.2,)]
    assert lab.ask("SELECT text FROM attributes") == [("0.2",)]


def test_readings_are_grouped_by_attributes_in_one_line(lab: Any):
    for run, width, value in (("a", 64.0, 1.0), ("b", 64.0, 3.0), ("c", 128.0, 5.0)):
        lab.attribute(run, "width", str(width), number=width)
        lab.measured("loss", lab.checkpoint(run, 1), value)
    asked = "SELECT width, avg(value) FROM readings_with_attributes WHERE metric = 'loss' GROUP BY width ORDER BY width"
    assert lab.ask(asked) == [(64, 2.0), (128, 5.0)]


def test_attributes_hide_no_column_and_no_other_attribute(lab: Any):
    lab.attribute("a", "seed", "5", number=5.0)
    lab.attribute("a", "store", "shelf")
    lab.attribute("a", "Width", "big")
    lab.attribute("a", "width", "small")
    lab.attribute("a", "odd \"name'", "odd")
    lab.measured("loss", lab.checkpoint("a", 1), 1.0)
    asked = 'SELECT store, run_store, seed, Width, run_width, "odd ""name\'" FROM runs'
    assert lab.ask(asked) == [("lab", "shelf", 5, "big", "small", "odd")]
    assert lab.ask("SELECT seed, run_seed, store FROM readings_with_attributes") == [(3, 5, "lab")]
