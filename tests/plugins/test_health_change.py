"""Stuck training and changed types and shapes, planted between two checkpoints."""

import math
from typing import Any

import pytest
import torch

from sounding import Reading, Skip
from sounding.testing import Trial
from sounding_plugins.health_change import health_change, identical


def found_in(findings: Any) -> dict[tuple[str, str], float | str | None]:
    return {
        (each.metric, each.part): each.value if each.label is None else each.label
        for each in findings
        if isinstance(each, Reading)
    }


@pytest.mark.parametrize(
    ("moved", "training", "share"), [((), "stuck", 1.0), (("a",), "partly stuck", 0.25), (("a", "b"), "moving", 0.0)]
)
def test_training_that_is_stuck(sounding_plugin: Trial, moved: tuple[str, ...], training: str, share: float):
    before = {"a": torch.ones(3), "b": torch.ones(1)}
    after = {name: tensor + (name in moved) for name, tensor in before.items()}
    found = found_in(sounding_plugin(health_change, checkpoint={"model": after}, previous={"model": before}))
    assert found["training", ""] == training
    assert found["identical_share", ""] == pytest.approx(share)
    assert found["identical_tensors", ""] == 2 - len(moved)
    for metric in ("dtype_changes", "shape_changes", "vanished", "appeared"):
        assert found[metric, ""] == 0


def test_types_and_shapes_that_change(sounding_plugin: Trial):
    before = {"w": torch.ones(2, 3), "v": torch.ones(4), "old": torch.ones(1), "same": torch.ones(5)}
    after = {"w": torch.ones(2, 3).bfloat16(), "v": torch.ones(6), "new": torch.ones(1), "same": torch.ones(5)}
    found = found_in(sounding_plugin(health_change, checkpoint={"model": after}, previous={"model": before}))
    assert found["dtype", "w"] == "float32 → bfloat16"
    assert found["shape", "v"] == "[4] → [6]"
    counts = ("dtype_changes", "shape_changes", "vanished", "appeared", "identical_tensors")
    assert [found[metric, ""] for metric in counts] == [1, 1, 1, 1, 1]
    assert found["identical_share", ""] == pytest.approx(5 / 17)


def test_nothing_in_common_is_a_skip(sounding_plugin: Trial):
    found = sounding_plugin(
        health_change, checkpoint={"model": {"a": torch.ones(1)}}, previous={"model": {"b": torch.ones(1)}}
    )
    assert [type(each) for each in found] == [Skip]


def test_identity_is_of_bytes():
    nan = torch.tensor([math.nan, 1.0])
    assert identical(nan, nan.clone())
    assert not identical(torch.tensor([0.0]), torch.tensor([-0.0]))
    long = torch.zeros(200_000)
    changed = long.clone()
    changed[-1] = 1e-45  # the smallest there is, in the last chunk
    assert not identical(long, changed)
    assert identical(long.reshape(400, 500).T, long.reshape(400, 500).T)
