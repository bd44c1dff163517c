"""Each sign of weights that nobody trained, planted."""

import math
from typing import Any

import pytest
import torch

from sounding import Reading
from sounding.testing import Trial
from sounding_plugins.health import health


def values(findings: Any) -> dict[tuple[str, str], float]:
    return {(each.metric, each.part): each.value for each in findings if isinstance(each, Reading)}


def full(size: int = 5000) -> torch.Tensor:
    return torch.linspace(1, 2, size)


def test_sound_weights_have_no_sign(sounding_plugin: Trial):
    found = values(sounding_plugin(health, checkpoint={"model": {"a": full(), "b": torch.ones(1)}}))
    assert found.pop(("tensors", "")) == 2
    assert set(found.values()) == {0}
    assert {metric for metric, _ in found} == {"zero_tensors", "constant_tensors", "nonfinite_tensors", "cut_tensors"}


@pytest.mark.parametrize("tail", [1024, 4000])
def test_a_parameter_that_was_not_written_to_its_end_is_cut(sounding_plugin: Trial, tail: int):
    cut = full(200_000)  # several chunks
    cut[-tail:] = 0.0
    short = full()
    short[-1023:] = 0.0
    found = values(sounding_plugin(health, checkpoint={"model": {"cut": cut, "short": short}}))
    assert found["cut_tensors", ""] == 1
    assert found["zero_tail", "cut"] == pytest.approx(tail / 200_000)
    assert ("zero_tail", "short") not in found


def test_zeros_and_constants_are_told_apart(sounding_plugin: Trial):
    network = {"zero": torch.zeros(3000), "ones": torch.full((70_000,), 0.5), "one": torch.ones(1)}
    found = values(sounding_plugin(health, checkpoint={"model": network}))
    assert (found["zero_tensors", ""], found["constant_tensors", ""], found["cut_tensors", ""]) == (1, 1, 0)
    assert found["constant", "ones"] == 0.5
    assert ("constant", "one") not in found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_no_numbers(sounding_plugin: Trial, value: float):
    spoilt = full()
    spoilt[7] = value
    network = {"spoilt": spoilt, "all": torch.full((10,), value)}
    found = values(sounding_plugin(health, checkpoint={"model": network}))
    assert found["nonfinite_tensors", ""] == 2
    assert (found["zero_tensors", ""], found["constant_tensors", ""]) == (0, 0)


def test_a_tail_is_as_long_as_one_says(sounding_plugin: Trial):
    short = full(100)
    short[-10:] = 0.0
    found = values(sounding_plugin(health, checkpoint={"model": {"w": short}}, longest_tail=10))
    assert found["zero_tail", "w"] == pytest.approx(0.1)
