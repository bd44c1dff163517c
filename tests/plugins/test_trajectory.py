"""Paths with known lengths, angles and dimensions."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from sounding import Curve, Reading, Skip
from sounding.testing import Trial
from sounding_plugins.trajectory import trajectory


def run_of(points: np.ndarray) -> list[dict[str, Any]]:
    return [{"model": {"w": torch.tensor(point).reshape(2, -1)}} for point in points]


def told(findings: Any) -> tuple[dict[str, Reading], dict[str, Curve]]:
    readings = {each.metric: each for each in findings if isinstance(each, Reading)}
    return readings, {each.metric: each for each in findings if isinstance(each, Curve)}


def test_a_straight_line(sounding_plugin: Trial):
    direction = np.random.default_rng(0).normal(size=400)
    readings, curves = told(
        sounding_plugin(trajectory, checkpoints=run_of(np.outer([0.0, 1.0, 3.0, 4.0, 7.0], direction)))
    )
    length = 7 * np.linalg.norm(direction)
    for metric in ("path_length", "displacement"):
        found = readings[metric]
        assert found.stderr is not None
        assert found.value == pytest.approx(length, abs=4 * found.stderr)
    assert readings["straightness"].value == pytest.approx(1.0)
    assert readings["participation_ratio"].value == pytest.approx(1.0)
    assert readings["explained_1"].value == pytest.approx(1.0)
    assert curves["update_cosine"].x == (1.0, 2.0, 3.0)
    assert curves["update_cosine"].y == pytest.approx([1.0, 1.0, 1.0])
    assert curves["distance_from_first"].y == pytest.approx(np.array([0, 1, 3, 4, 7]) * length / 7, rel=0.05)


def test_a_square(sounding_plugin: Trial):
    first, second = np.random.default_rng(1).normal(size=(2, 3000))
    points = np.array([0 * first, first, first + second, second, 0 * first])
    readings, curves = told(sounding_plugin(trajectory, checkpoints=run_of(points)))
    assert readings["displacement"].value == pytest.approx(0.0, abs=1e-9)
    assert curves["update_cosine"].y == pytest.approx([0.0, 0.0, 0.0], abs=4 / math.sqrt(8192) + 4 / math.sqrt(3000))
    assert readings["explained_2"].value == pytest.approx(1.0)


def test_a_random_walk_has_the_dimension_of_one(sounding_plugin: Trial):
    steps = np.random.default_rng(2).normal(size=(100, 20_000))
    readings, curves = told(sounding_plugin(trajectory, checkpoints=run_of(steps.cumsum(axis=0).astype(np.float32))))
    assert readings["explained_1"].value == pytest.approx(6 / math.pi**2, rel=0.05)
    assert readings["explained_2"].value == pytest.approx(6 / math.pi**2 * 1.25, rel=0.05)
    assert readings["participation_ratio"].value == pytest.approx(2.5, rel=0.1)
    assert abs(np.mean(curves["update_cosine"].y)) < 4 / math.sqrt(8192 * 98) * math.sqrt(2)


def test_of_many_checkpoints_some_are_taken(sounding_plugin: Trial):
    points = np.outer(np.arange(9.0), np.ones(10))
    readings, curves = told(sounding_plugin(trajectory, checkpoints=run_of(points), most=5))
    assert readings["checkpoints"].value == 5
    assert curves["distance_from_first"].x == (0.0, 2.0, 4.0, 6.0, 8.0)


def test_what_is_no_path(sounding_plugin: Trial):
    still = run_of(np.ones((4, 6)))
    findings = sounding_plugin(trajectory, checkpoints=still)
    assert any(isinstance(each, Skip) and "ever moved" in each.reason for each in findings)
    assert told(sounding_plugin(trajectory, checkpoints=still[:3]))[0] == {}
    grown = [*run_of(np.random.default_rng(0).normal(size=(4, 6))), {"model": {"w": torch.ones(3)}}]
    findings = sounding_plugin(trajectory, checkpoints=grown)
    assert any(isinstance(each, Skip) and "path ends there" in each.reason for each in findings)
    assert told(findings)[0]["checkpoints"].value == 4
    broken = run_of(np.full((4, 6), np.nan))
    findings = sounding_plugin(trajectory, checkpoints=broken)
    assert [each.reason for each in findings if isinstance(each, Skip)] == ["some weights are NaN or infinite"]
