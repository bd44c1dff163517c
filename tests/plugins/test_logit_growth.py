"""Growth that was planted is extrapolated, and what cannot be told is left open."""

import math
from typing import Any

import numpy as np
import pytest

from sounding import Reading, Skip
from sounding.passes import Line
from sounding.testing import Trial
from sounding_plugins.logit_growth import logit_growth

STEPS = np.arange(100.0, 4001.0, 100.0)
NOISE = np.random.default_rng(0).normal(size=len(STEPS))
ATTENTION, OUTPUT = "attention_logits.max_abs_logit", "output_logits.max_abs_logit"


def told(findings: Any) -> tuple[dict[tuple[str, str, str], Reading], list[str]]:
    readings = {(each.metric, each.part, each.split): each for each in findings if isinstance(each, Reading)}
    return readings, [each.reason for each in findings if isinstance(each, Skip)]


def test_the_update_at_which_attention_logits_become_dangerous(sounding_plugin: Trial):
    values = 20 * np.exp(STEPS / 1500 + 0.05 * NOISE)
    planted = 1500 * math.log(1e4 / 20)
    readings, skips = told(sounding_plugin(logit_growth, history={(ATTENTION, "", "train"): (STEPS, values)}))
    assert readings["verdict", ATTENTION, "train"].label == "growing"
    found = readings["danger_update", ATTENTION, "train"]
    assert found.low is not None
    assert found.high is not None
    assert found.low < planted < found.high < 2 * planted
    assert found.low < found.value < found.high
    assert readings["level", ATTENTION, "train"].value == 1e4
    assert readings["checkpoints", ATTENTION, "train"].value == 21
    assert readings["horizon", ATTENTION, "train"].value == 4000
    assert skips == []


@pytest.mark.parametrize(
    ("values", "label"),
    [
        (np.exp(0.05 * NOISE), "unresolved"),
        (100 * np.exp(-STEPS / 2000 + 0.05 * NOISE), "not growing"),
        (20 * (STEPS / 100) ** 0.05 * np.exp(0.001 * NOISE), "unresolved"),  # grows, and would take for ever
        (20 * np.exp(STEPS / 500), "reached"),
    ],
)
def test_what_else_can_be_said(sounding_plugin: Trial, values: Any, label: str):
    readings, _ = told(sounding_plugin(logit_growth, history={ATTENTION: (STEPS, values)}))
    verdict = readings["verdict", ATTENTION, ""]
    assert verdict.label == label
    assert verdict.quality == ("unresolved" if label == "unresolved" else "ok")
    assert ("danger_update", ATTENTION, "") not in readings
    assert readings["latest", ATTENTION, ""].value == pytest.approx(float(values[-1]))


def test_the_levels_and_the_reach_are_options(sounding_plugin: Trial):
    values = 20 * np.exp(STEPS / 1500 + 0.02 * NOISE)
    both = {ATTENTION: (STEPS, values), (OUTPUT, "", "heldout"): (STEPS, values)}
    readings, _ = told(sounding_plugin(logit_growth, history=both, attention_danger=2e3, output_danger=1e300))
    assert readings["danger_update", ATTENTION, ""].value == pytest.approx(1500 * math.log(100), rel=0.1)
    assert readings["verdict", OUTPUT, "heldout"].label == "unresolved"
    readings, _ = told(sounding_plugin(logit_growth, history=both, attention_danger=2e3, reach=1.1))
    assert readings["verdict", ATTENTION, ""].label == "unresolved"


def test_lines_of_layers_and_heads_are_left_out(sounding_plugin: Trial):
    values = 20 * np.exp(STEPS / 1500 + 0.02 * NOISE)
    history: Any = {
        Line(ATTENTION, index=1): (STEPS, values), (ATTENTION, "h.0.attn", ""): (STEPS, values),
        "loss.loss": (STEPS, values), "logit_scale.attention_logit_bound": (STEPS[:5], values[:5]),
    }  # fmt: skip
    readings, skips = told(sounding_plugin(logit_growth, history=history))
    assert readings == {}
    assert skips == ["3 checkpoints in the last part of the run; 6 are needed"]
    assert "no readings" in told(sounding_plugin(logit_growth, history={}))[1][0]
