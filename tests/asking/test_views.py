"""What counts as current, and what the views show of it; every expectation is written out by hand."""

from pathlib import Path
from typing import Any

import pytest

from sounding.asking.query import NAMES, connect
from sounding.asking.views import MACROS, READING, VIEWS
from sounding.records import Curve, Ending, Reading, Skip, State

LOSSES = "SELECT run, step, value FROM readings ORDER BY ALL"


def test_no_results_give_empty_views_with_all_columns(tmp_path: Path):
    with connect(tmp_path / "nothing") as connection:
        for view in VIEWS:
            assert connection.execute(f"SELECT * FROM {view}").fetchall() == []
        described = connection.execute("DESCRIBE readings").fetchall()
    assert tuple(column[0] for column in described) == READING
    types = {column[0]: column[1] for column in described}
    assert (types["value"], types["step"], types["recorded_at"]) == ("DOUBLE", "BIGINT", "TIMESTAMP")


def test_readings_show_the_version_in_force(lab: Any):
    lab.setting("loss", 1)
    lab.measured("loss", lab.checkpoint(step=1), 1.0)
    lab.measured("other", lab.checkpoint(step=1), 9.0)
    lab.setting("loss", 2)
    assert lab.ask(LOSSES) == [("a", 1, 9.0)]
    lab.measured("loss", lab.checkpoint(step=1), 2.0, version=2)
    assert lab.ask(LOSSES) == [("a", 1, 2.0), ("a", 1, 9.0)]
    assert len(lab.ask("FROM readings_all")) == 3


def test_readings_return_to_an_older_setting_when_it_is_in_force_again(lab: Any):
    lab.setting("loss", 1, "few")
    lab.measured("loss", lab.checkpoint(step=1), 1.0, options_hash="few")
    lab.setting("loss", 1, "many")
    lab.measured("loss", lab.checkpoint(step=1), 2.0, options_hash="many")
    lab.setting("loss", 1, "few")
    assert lab.ask(LOSSES) == [("a", 1, 1.0)]
    assert lab.ask("SELECT plugin, options_hash, options FROM settings") == [("loss", "few", '{"top_k": 10}')]


def test_a_plugin_without_setting_goes_by_its_newest_outcome(lab: Any):
    lab.measured("loss", lab.checkpoint(step=1), 1.0, version=2)
    lab.measured("loss", lab.checkpoint(step=2), 2.0, version=3)
    assert lab.ask(LOSSES) == [("a", 2, 2.0)]


def test_a_new_basis_retires_the_readings_of_its_run_only(lab: Any):
    lab.measured("loss", lab.checkpoint("a", 1), 1.0, basis="old")
    lab.measured("loss", lab.checkpoint("a", 2), 2.0, basis="old")
    lab.measured("loss", lab.checkpoint("b", 1), 3.0, basis="old")
    lab.measured("loss", lab.checkpoint("a", 2), 4.0, basis="new")
    assert lab.ask(LOSSES) == [("a", 2, 4.0), ("b", 1, 3.0)]


def test_a_new_basis_of_one_network_leaves_the_other_network_alone(lab: Any):
    lab.measured("loss", lab.checkpoint("a", 1), 1.0, basis="old", model="raw")
    lab.measured("loss", lab.checkpoint("a", 1), 2.0, basis="new", model="ema")
    assert lab.ask(LOSSES) == [("a", 1, 1.0), ("a", 1, 2.0)]


def test_redo_withdraws_readings_until_they_are_measured_again(lab: Any):
    checkpoint = lab.checkpoint(step=1)
    lab.measured("loss", checkpoint, 1.0)
    lab.measured("loss", lab.checkpoint(step=2), 5.0)
    lab.ended("loss", checkpoint, Ending.REDO, "asked for")
    assert lab.ask(LOSSES) == [("a", 2, 5.0)]
    lab.measured("loss", checkpoint, 2.0)
    assert lab.ask(LOSSES) == [("a", 1, 2.0), ("a", 2, 5.0)]
    assert lab.ask("SELECT step, status, attempts FROM outcomes ORDER BY step") == [(1, "ok", 2), (2, "ok", 1)]


@pytest.mark.parametrize("folded", [False, True])
def test_views_are_the_same_when_folded(lab: Any, folded: bool):
    checkpoint = lab.checkpoint(step=1)
    lab.ended("loss", checkpoint, Ending.CRASHED, "signal 11", 1)
    lab.measured("loss", checkpoint, 1.0, attempt=2)
    lab.ended("loss", checkpoint, Ending.REDO, "asked for")
    lab.measured("loss", checkpoint, 2.0, attempt=1)
    if folded:
        lab.fold_everything()
    assert lab.ask(LOSSES) == [("a", 1, 2.0)]
    assert lab.ask("SELECT status, attempt, attempts FROM outcomes") == [("ok", 1, 3)]
    assert lab.ask("SELECT status FROM outcomes_all ORDER BY seq") == [("crashed",), ("ok",), ("redo",), ("ok",)]


def test_findings_of_an_attempt_that_failed_are_not_kept(lab: Any):
    lab.measured("loss", lab.checkpoint(step=1), 1.0, ending=Ending.FAILED, reason="ValueError: no")
    assert lab.ask("FROM readings_all") == []
    assert lab.ask("SELECT status, reason, readings FROM outcomes") == [("failed", "ValueError: no", 0)]


def test_pairs_carry_both_checkpoints_and_are_apart_by_the_second(lab: Any):
    first, second, third = (lab.checkpoint(step=step) for step in (1, 2, 3))
    lab.measured("change", third, 0.5, other=first)
    lab.measured("change", third, 0.25, other=second)
    asked = "SELECT step, other_run, other_step, other_checkpoint_id, value FROM readings ORDER BY other_step"
    assert lab.ask(asked) == [(3, "a", 1, first.checkpoint_id, 0.5), (3, "a", 2, second.checkpoint_id, 0.25)]
    assert lab.ask("SELECT over, count(*) FROM outcomes GROUP BY ALL") == [("pair", 2)]


def test_a_reading_keeps_every_property(lab: Any):
    reading = Reading("norm", 1.5, None, "fc.weight", "train", "Linear", 2, 4, "odd", 1.0, 2.0, 0.25, "unconverged")
    lab.measured("weights", lab.checkpoint(step=1), reading)
    asked = """SELECT metric, value, label, part, split, kind, depth, "index", "group", low, high, stderr, status, unit,
        probe, seed, dtype, device, plugin, version, options_hash, recorded_at FROM readings"""
    row = lab.ask(asked)[0]
    assert row[:13] == ("norm", 1.5, None, "fc.weight", "train", "Linear", 2, 4, "odd", 1.0, 2.0, 0.25, "unconverged")
    assert row[13:21] == ("nat", "probe", 3, "float32", "cpu", "weights", 1, "o")
    assert str(row[21]) == "2026-05-01 12:00:01"


def test_curves_labels_and_skips_are_kept_apart_from_numbers(lab: Any):
    found = (Curve("norm", (1.0, 2.0), (3.0, float("inf"))), Reading("regime", label="lazy"), Skip("too small", "bias"))
    lab.measured("spectrum", lab.checkpoint(step=1), *found)
    assert lab.ask("SELECT metric, x, y, unit FROM curves") == [("norm", [1.0, 2.0], [3.0, float("inf")], "nat")]
    assert lab.ask("SELECT metric, value, label FROM readings") == [("regime", None, "lazy")]
    assert lab.ask("SELECT part, reason FROM skips") == [("bias", "too small")]
    assert lab.ask("SELECT readings FROM outcomes") == [(1,)]


def test_checkpoints_show_the_newest_verdict_of_every_content(lab: Any):
    first, second = lab.checkpoint(content="x"), lab.checkpoint(content="y")
    lab.verdict(first, State.PENDING, "6 of 8 shards")
    assert lab.ask("SELECT status, reason FROM checkpoints") == [("pending", "6 of 8 shards")]
    lab.verdict(first, State.COMPLETE)
    assert lab.ask("SELECT checkpoint_id, status FROM checkpoints") == [(first.checkpoint_id, "complete")]
    lab.verdict(first, State.PENDING, "being overwritten")
    assert lab.ask("SELECT status FROM checkpoints ORDER BY 1") == [("complete",), ("pending",)]
    lab.verdict(second, State.COMPLETE)
    assert lab.ask("SELECT checkpoint_id, status FROM checkpoints ORDER BY 1") == [
        (first.checkpoint_id, "complete"),
        (second.checkpoint_id, "complete"),
    ]


def test_of_a_run_the_newest_horizon_is_shown_and_every_one_kept(lab: Any):
    shown = "SELECT run, horizon, value FROM readings WHERE plugin = 'trend' ORDER BY ALL"
    lab.setting("trend")
    lab.measured("norm", lab.checkpoint(step=1), 9.0)
    for run, horizon in (("a", 10), ("b", 10), ("a", 20)):
        lab.measured_run("trend", run, horizon, Reading("loss", float(horizon)), Skip("no gradients", part="g"))
    lab.measured_run("trend", "a", 30, ending=Ending.FAILED)
    assert lab.ask(shown) == [("a", 20, 20.0), ("b", 10, 10.0)]
    assert len(lab.ask("FROM readings_all WHERE plugin = 'trend'")) == 3
    assert len(lab.ask("FROM skips")) == 2
    assert lab.ask("SELECT value FROM readings WHERE plugin = 'norm'") == [(9.0,)]
    assert lab.ask(
        "SELECT horizon, members, status FROM outcomes WHERE run = 'a' AND over = 'run' ORDER BY horizon"
    ) == [
        (10, 10, "ok"),
        (20, 20, "ok"),
        (30, 30, "failed"),
    ]
    lab.measured_run("trend", "a", 5, Reading("loss", 5.0))  # begun again, and not yet as far
    assert lab.ask(shown) == [("a", 5, 5.0), ("b", 10, 10.0)]
    lab.setting("trend", 2)
    assert lab.ask(shown) == []
    lab.measured_run("trend", "a", 5, Reading("loss", 6.0), version=2)
    assert lab.ask(shown) == [("a", 5, 6.0)]
    lab.fold_everything()
    assert lab.ask(shown) == [("a", 5, 6.0)]


def test_of_a_run_every_network_has_its_own_newest_horizon(lab: Any):
    lab.measured_run("trend", "a", 20, Reading("loss", 1.0), model="raw")
    lab.measured_run("trend", "a", 10, Reading("loss", 2.0), model="ema")
    assert lab.ask("SELECT model, value FROM readings ORDER BY model") == [("ema", 2.0), ("raw", 1.0)]


def test_abandoned_is_revoked_when_the_checkpoint_becomes_whole(lab: Any):
    checkpoint = lab.checkpoint(step=5)
    lab.verdict(checkpoint, State.ABANDONED, "the run has gone on")
    lab.verdict(checkpoint, State.COMPLETE)
    assert lab.ask("SELECT status, updates, updates_source, step_source FROM checkpoints") == [
        ("complete", 10, "optimizer.state.step", "path")
    ]


def test_last_gives_the_reading_at_the_greatest_step(lab: Any):
    for run, step, value in (("a", 10, 1.0), ("a", 20, 0.5), ("b", 30, 0.75)):
        lab.measured("loss", lab.checkpoint(run, step), value)
    lab.measured("weights", lab.checkpoint("a", 20), Reading("norm", 7.0))
    assert lab.ask("SELECT run, step, value FROM last('loss') ORDER BY run") == [("a", 20, 0.5), ("b", 30, 0.75)]
    assert lab.ask("SELECT value FROM last('weights.norm')") == [(7.0,)]
    assert lab.ask("SELECT value FROM last('loss.norm')") == []


def test_at_level_interpolates_to_the_first_crossing(lab: Any):
    for step, loss, norm in ((0, 2.0, 10.0), (10, 1.0, 30.0), (20, 0.0, 90.0), (30, 1.5, 0.0)):
        lab.measured("loss", lab.checkpoint("a", step), loss)
        lab.measured("weights", lab.checkpoint("a", step), Reading("norm", norm))
    # loss falls from 1 to 0 between steps 10 and 20, so it is 0.25 at three quarters of the way: 30 + 0.75 · 60
    assert lab.ask("SELECT run, step, value FROM at_level('norm', 'loss', 0.25)") == [("a", 17.5, 75.0)]
    assert lab.ask("SELECT run, step, value FROM at_level('norm', 'loss', 1.0)") == [("a", 10.0, 30.0)]
    assert lab.ask("FROM at_level('norm', 'loss', 5.0)") == []


def test_against_puts_another_metric_of_the_same_checkpoint_beside(lab: Any):
    for step, loss, norm in ((0, 2.0, 10.0), (10, 1.0, 30.0)):
        lab.measured("loss", lab.checkpoint("a", step), loss)
        lab.measured("weights", lab.checkpoint("a", step), Reading("norm", norm, part="fc"))
    asked = "SELECT step, part, value, against_value FROM against('loss') WHERE metric = 'norm' ORDER BY step"
    assert lab.ask(asked) == [(0, "fc", 10.0, 2.0), (10, "fc", 30.0, 1.0)]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_made_alone(lab: Any, name: str):
    lab.measured("loss", lab.checkpoint(step=1), 1.0)
    arguments = {"last": "('loss')", "against": "('loss')", "at_level": "('loss', 'loss', 1.0)"}
    with connect(lab.results.path, [name]) as connection:
        connection.execute(f"SELECT * FROM {name}{arguments[name] if name in MACROS else ''}").fetchall()
