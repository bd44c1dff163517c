"""`runs`, `checkpoints`, `metrics` and `plugins`."""

import pytest
from cli.lab import LOSS, NORM, Lab
from rich.console import Console

from sounding.records import Catalogue, Refusal, State


def test_runs_shows_the_attributes_in_which_runs_differ_and_names_the_others_once(lab: Lab) -> None:
    result = lab.outcome("runs")
    header, *rows = [line.split() for line in result.stdout.splitlines()[1:] if "─" not in line]
    assert header[-2:] == ["[UTC]", "lr"]
    assert [(row[0], row[1], row[-1]) for row in rows] == [("fast", "4", "0.1"), ("slow", "1", "0.01")]
    assert result.stderr.strip() == "the same in all: width 16"


def test_runs_as_json_has_every_attribute(lab: Lab) -> None:
    fast, slow = lab.json("runs")
    assert (fast["run"], fast["lr"], fast["width"], fast["last_step"]) == ("fast", 0.1, 16, 300)
    assert (slow["run"], slow["measured"]) == ("slow", 1)


def test_checkpoints_are_filtered_by_run_and_status(lab: Lab) -> None:
    assert [row["step"] for row in lab.json("checkpoints", "--run", "fa*")] == [0, 100, 200, 300]
    (pending,) = lab.json("checkpoints", "--status", "pending")
    assert (pending["run"], pending["step"], pending["reason"]) == ("slow", 200, "6 of 8 shards")


def test_checkpoints_say_why_one_is_not_complete_and_how_large_they_are(lab: Lab) -> None:
    text = lab.run("checkpoints")
    assert "6 of 8 shards" in text
    assert "1.5 MB" in text
    assert "whole" not in text


def test_a_status_that_does_not_exist_is_wrong_usage(lab: Lab) -> None:
    assert "abandoned" in lab.error("checkpoints", "--status", "lost", code=2)


def test_a_filter_that_nothing_passes_says_so(lab: Lab) -> None:
    assert "no checkpoint is like that" in lab.run("checkpoints", "--run", "nobody")


@pytest.mark.parametrize("command", ["runs", "checkpoints"])
def test_nothing_seen_yet_says_what_to_start(empty_lab: Lab, command: str) -> None:
    assert f"no {command} yet" in empty_lab.run(command)
    assert empty_lab.json(command) == []


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Catalogue(
        {"loss": LOSS, "weight_norm": NORM}, (Refusal("broken", "lab: broken.py", "no module named jax"),)
    )
    monkeypatch.setattr("sounding.running.catalogue.catalogue", lambda settings=None: found)


@pytest.mark.usefixtures("catalogue")
def test_metrics_counts_readings_and_keeps_units_and_meanings(lab: Lab) -> None:
    loss, norm = lab.json("metrics")
    assert (loss["name"], loss["unit"], loss["readings"], loss["runs"]) == ("loss.loss", "nat", 9, 2)
    assert (norm["readings"], norm["last_step"], norm["meaning"], norm["source"]) == (12, 300, "norm", "definition")
    assert "mean loss" in lab.run("metrics")


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize("command", ["metrics", "plugins"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_words_have_room_on_every_screen(lab: Lab, monkeypatch: pytest.MonkeyPatch, command: str, width: int) -> None:
    monkeypatch.setattr("sounding_cli.screen.Console", lambda **settings: Console(**{**settings, "width": width}))
    lines = lab.run(command).splitlines()
    assert max(map(len, lines[:6])) <= width
    text = "\n".join(lines)
    assert "mean loss" in text if command == "metrics" else "What weight_norm is." in text


@pytest.mark.usefixtures("catalogue")
def test_metrics_without_a_configuration_lists_what_could_be_measured(
    lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = Lab(tmp_path_factory.mktemp("elsewhere"))
    assert [(row["name"], row["readings"]) for row in elsewhere.json("metrics")] == [
        ("loss.loss", 0),
        ("weight_norm.frobenius", 0),
    ]


@pytest.mark.usefixtures("catalogue")
def test_plugins_names_those_refused_and_why(lab: Lab) -> None:
    text = lab.run("plugins")
    assert "What loss is." in text
    assert "✗ broken (lab: broken.py): no module named jax" in text
    found = lab.json("plugins")
    assert [plugin["name"] for plugin in found["plugins"]] == ["loss", "weight_norm"]
    assert found["refused"][0]["reason"] == "no module named jax"


def test_a_store_column_appears_with_the_second_store(lab: Lab) -> None:
    assert "store" not in lab.run("runs")
    lab.see("fast", 1, State.COMPLETE, store="other")
    assert "store" in lab.run("runs")
