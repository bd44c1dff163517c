"""Plugins over a run, run as the worker would: what they are given, and what they must not ask for."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sounding import Finding, Metric, Reading, SoundingError, plugin
from sounding.measuring.collecting import Found
from sounding.measuring.discovery import assemble, load
from sounding.passes import Checkpoints, Course, History, Logs, Past, Weights
from sounding.testing import Trial

M = [Metric("m", unit="1", meaning="m", source="s")]
STATES = [{"model": {"w": torch.full((3,), float(step)), "b": torch.ones(1)}} for step in range(4)]
KEPT: list[torch.Tensor] = []


def over_run(function: Any) -> Any:
    return plugin(version=1, metrics=M, over="run")(function)


@over_run
def walk(checkpoints: Checkpoints) -> Iterator[Finding]:
    """An ordinary loop, whose variables still hold the last tensor when the next checkpoint is opened."""
    assert len(checkpoints) == len(checkpoints.known)
    for _ in range(2):
        for each in checkpoints:
            for tensor in each.weights.values():
                assert tensor.ndim == 1
            weights = each.weights["w"]
            assert len(checkpoints._open) <= 2
    for each in checkpoints:
        yield Reading("m", float(each.weights["w"].sum()), index=each.checkpoint.step)
    assert weights is not None


@over_run
def hoard(checkpoints: Checkpoints) -> Iterator[Finding]:
    """Tensors of all checkpoints at once."""
    yield Reading("m", float(sum(each.sum() for each in [stop.weights["w"] for stop in checkpoints])))


@over_run
def keep(checkpoints: Checkpoints) -> Iterator[Finding]:
    """A tensor that outlives the plugin."""
    for each in checkpoints:
        KEPT[:] = [each.weights["w"]]
    yield Reading("m", 1.0)


@over_run
def read(history: History, logs: Logs) -> Iterator[Finding]:
    course = history.course("loss.loss", split="train")
    found = logs.first(("absent", "lr"))
    assert course is not None
    assert found is not None
    assert history.course("loss.loss") is None
    assert logs.first(("absent",)) is None
    yield Reading("m", float(course.values.sum()), part="history")
    yield Reading("m", float(found[1].updates.sum()), part=found[0])
    yield Reading("m", float(len(history) + len(list(logs))), part="lines")


def test_checkpoints_are_gone_through_as_often_as_wanted(sounding_plugin: Trial):
    found = sounding_plugin(walk, checkpoints=STATES)
    assert [(each.index, each.value) for each in found] == [(0, 0.0), (1, 3.0), (2, 6.0), (3, 9.0)]


@pytest.mark.parametrize("held", [hoard, keep])
def test_what_is_held_too_long_is_named(sounding_plugin: Trial, held: Any):
    with pytest.raises(pytest.fail.Exception, match=r"still in use \(w\)"):
        sounding_plugin(held, checkpoints=STATES)
    KEPT.clear()


def test_history_and_logs_are_given_as_they_come(sounding_plugin: Trial):
    found = sounding_plugin(
        read,
        history={("loss.loss", "", "train"): ([1, 2], [0.5, 0.25]), "other.m": Course(*(torch.ones(1).numpy(),) * 3)},
        logs={"lr": ([10, 20], [1.0, 2.0]), "loss": ([1], [1.0])},
    )
    assert [(each.part, each.value) for each in found] == [("history", 0.75), ("lr", 30.0), ("lines", 4.0)]


def test_a_run_of_nothing_is_empty(sounding_plugin: Trial):
    @over_run
    def count(history: History, logs: Logs, checkpoints: Checkpoints) -> Iterator[Finding]:
        yield Reading("m", len(history) + len(logs) + len(checkpoints))

    assert sounding_plugin(count) == [Reading("m", 0.0)]


def refusal(over: str, function: Any) -> str:
    item = plugin(version=1, metrics=M, over=over)(function)  # type: ignore[arg-type]
    passes = [Found(each, "sounding: passes") for each in load().passes.values()]
    refusals = assemble([*passes, Found(item, "tests: t")]).refusals
    return refusals[0].reason if refusals else ""


def test_a_plugin_over_a_run_cannot_ask_for_one_checkpoint_and_the_other_way_round():
    def one(weights: Weights): ...
    def whole(history: History): ...
    def raw(past: Past): ...

    assert "needs `weights`, which a checkpoint has and a run has not; go through `checkpoints`" in refusal("run", one)
    assert refusal("checkpoint", whole) == 'needs `history`, which only over="run" has'
    assert refusal("checkpoint", raw) == 'needs `past`, which only over="run" has'
    assert refusal("checkpoint", one) == refusal("run", whole) == refusal("run", raw) == ""


def test_a_checkpoint_that_is_gone_is_said_to_be(sounding_plugin: Trial, tmp_path: Any):
    @over_run
    def vanishing(checkpoints: Checkpoints) -> Iterator[Finding]:
        (tmp_path / "step1.pt").unlink(missing_ok=True)
        for each in checkpoints:
            yield Reading("m", 1.0, index=each.checkpoint.step)

    with pytest.raises((SoundingError, pytest.fail.Exception), match="step1"):
        sounding_plugin(vanishing, checkpoints=STATES)
