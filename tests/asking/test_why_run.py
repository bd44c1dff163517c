"""Why, of a run as a whole: a story for every plugin over runs."""

import re
from pathlib import Path

import pytest
from making import CONFIG, START, checkpoint, ended, publish, results_in, settings_in, sheet, task_on, uses

from sounding.asking.again import ask_again
from sounding.asking.why import why
from sounding.errors import SoundingError
from sounding.keeping.requests import Redo
from sounding.keeping.rows import outcome_row, result_rows, setting_row, verdict_row
from sounding.records import (
    Catalogue,
    Ending,
    Job,
    Key,
    Outcome,
    PluginSheet,
    Sighting,
    State,
    Subject,
    Verdict,
)
from sounding.running.catalogue import remember

NORM, TREND = sheet("norm"), sheet("trend", over="run", passes=uses("history"))


class Past:
    def __init__(self, path: Path) -> None:
        self.path, self.seq = path, 0
        self.settings = settings_in(path)
        self.results = results_in(self.settings.results)
        self.plugins(NORM, TREND)

    def plugins(self, *sheets: PluginSheet) -> None:
        remember(Catalogue({one.name: one for one in sheets}), self.results.path)
        for one in sheets:
            self.publish(setting_row(one, 0, START))

    def publish(self, *rows: dict[str, object]) -> None:
        self.seq += 1
        publish(self.results, rows, self.seq)

    def saved(self, step: int, run: str = "a") -> None:
        known = checkpoint(step, run)
        seen = Sighting(known.store, known.run, known.path, known.step, {}, known.stamp)
        self.publish(verdict_row(seen, Verdict(State.COMPLETE, ""), known, None, START, 0))

    def measured(self, step: int) -> None:
        task = task_on(checkpoint(step), NORM)
        self.publish(*result_rows(Job(0, checkpoint(step), (task,)), ended(task), NORM, START, 1))

    def ended(self, horizon: int, ending: Ending, reason: str = "", attempt: int = 1, by: PluginSheet = TREND) -> None:
        subject = Subject("run", "runs", "a", horizon, f"to {horizon}", horizon=horizon, members=horizon, log_rows=0)
        key = Key(by.name, by.version, by.options_hash, "b", subject.identity)
        self.publish(outcome_row(Outcome(key, subject, ending, reason, attempt, 0, START)))

    def story(self, plugin: str = "trend", run: str = "a") -> tuple[str, str]:
        (told,) = why(self.settings, run)
        assert (told.verdict, told.run, told.step) == ("run", run, None)
        (one,) = [each for each in told.tasks if each.plugin == plugin]
        return one.state, one.reason


@pytest.fixture
def past(tmp_path: Path) -> Past:
    made = Past(tmp_path)
    made.saved(1)
    return made


def test_before_anything_is_there_it_says_what_is_missing(past: Past):
    assert past.story() == ("owed", "nothing to measure yet: no reading of a checkpoint, and no log")
    past.measured(1)
    state, reason = past.story()
    assert state == "owed"
    assert reason.startswith("once it has 10 inputs, or when the run rests; 1 measurements")


def test_the_newest_horizon_is_told(past: Past):
    past.ended(10, Ending.OK)
    past.ended(20, Ending.OK)
    state, reason = past.story()
    assert state == "done"
    assert "UTC, up to 20, from 20 measurements or checkpoints and 0 log rows; again when a tenth more" in reason


@pytest.mark.parametrize(
    ("ending", "attempt", "state", "words"),
    [
        (Ending.SKIPPED, 1, "skipped", r"too short \(.* up to 10.*; again when"),
        (Ending.FAILED, 1, "waiting", "failed, attempt 1: too short; it will be tried again"),
        (Ending.FAILED, 3, "failed", "given up until a tenth more has come"),
        (Ending.REDO, 0, "owed", "too short 2026"),
    ],
)
def test_how_the_last_attempt_ended(past: Past, ending: Ending, attempt: int, state: str, words: str):
    past.ended(5, Ending.OK)
    past.ended(10, ending, "too short", attempt)
    told = past.story()
    assert told[0] == state
    assert re.search(words, told[1])


def test_what_is_not_wanted(past: Past):
    past.plugins(
        sheet("group", over="group"),
        sheet("slow", over="run", cost="offline"),
        sheet("deep", over="run", needs_recipe=True),
        TREND,
    )
    assert past.story("group") == ("not wanted", "plugins over groups of runs are not planned")
    assert past.story("slow")[0] == past.story("deep")[0] == "not wanted"
    past.settings = settings_in(past.path, CONFIG + "[plugins.trend]\nenabled = false\n")
    assert past.story() == ("not wanted", "enabled = false in the configuration")
    past.ended(10, Ending.OK)
    assert past.story()[0] == "done", "what was measured stays measured"


def test_of_a_checkpoint_it_says_where_to_look(past: Past):
    (told,) = why(past.settings, "a@1")
    assert ("trend", "of the run") in [(each.plugin, each.state) for each in told.tasks]


def test_a_run_without_such_plugins_or_an_unknown_one_is_nothing_to_explain(past: Past):
    with pytest.raises(SoundingError, match="no checkpoint by that path"):
        why(past.settings, "b")
    past.plugins(NORM)
    with pytest.raises(SoundingError, match="RUN@STEP"):
        why(past.settings, "a")


def test_redo_counts_the_newest_horizon_only(past: Past):
    for horizon in (10, 20, 30):
        past.ended(horizon, Ending.OK)
    past.measured(1)
    assert ask_again(past.results.path, Redo(plugin="trend")) == 1
    assert ask_again(past.results.path, Redo(run="a")) == 2
    with pytest.raises(SoundingError):
        ask_again(past.results.path, Redo(plugin="trend", step=10))
