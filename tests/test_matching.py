"""Stored names against an architecture's: what is matched, and what is said when nothing is."""

from collections.abc import Callable
from typing import Any

import pytest

from sounding import SoundingError
from sounding.matching import match, shared_prefix

NAMES = ("fc1.weight", "fc1.bias", "fc2.weight", "bn.num_batches_tracked")
TARGET = {"fc1.weight": (4, 3), "fc1.bias": (4,), "fc2.weight": (2, 4), "bn.num_batches_tracked": ()}


def renamed(rename: Callable[[str], str], names: Any = TARGET):
    return {rename(name): shape for name, shape in names.items()}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: f"module.{name}",
        lambda name: f"model.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"backbone.net.{name}",
        lambda name: name.replace(".", "._orig_mod."),
    ],
)
def test_wrapped_names_are_matched_in_both_directions(rename: Callable[[str], str]):
    stored = renamed(rename)
    assert match(stored, TARGET, {}) == {name: rename(name) for name in TARGET}
    assert match(TARGET, stored, {}) == {rename(name): name for name in TARGET}


def test_an_own_submodule_called_module_is_left_alone():
    target = {"module.weight": (1,), "weight": (2,)}
    assert match(target, target, {}) == {name: name for name in target}


def test_a_missing_batch_counter_is_no_matter():
    stored = {name: shape for name, shape in TARGET.items() if "num_batches" not in name}
    assert set(match(stored, TARGET, {})) == set(stored)


def test_tied_tensors_may_be_stored_once_or_twice():
    target = {"embed.weight": (5, 2), "head.weight": (5, 2)}
    twins = {"head.weight": "embed.weight"}
    once = match({"embed.weight": (5, 2)}, target, twins)
    assert once == {"embed.weight": "embed.weight", "head.weight": "embed.weight"}
    assert match(target, target, twins) == {name: name for name in target}


def test_a_tied_tensor_stored_only_under_its_second_name():
    target = {"embed.weight": (5, 2), "head.weight": (5, 2)}
    found = match({"head.weight": (5, 2)}, target, {"head.weight": "embed.weight"})
    assert found == {"embed.weight": "head.weight", "head.weight": "head.weight"}


def said(stored: Any, target: Any = TARGET):
    with pytest.raises(SoundingError) as caught:
        match(stored, target, {})
    return str(caught.value)


def test_missing_and_unexpected_names_are_listed_with_counts():
    stored = {"fc1.weight": (4, 3), **{f"extra{i}.weight": (1,) for i in range(14)}}
    text = said(stored)
    assert "Missing in the checkpoint: fc1.bias, fc2.weight." in text
    assert "extra0.weight" in text
    assert "and 4 more" in text
    assert "1 of 4 names do match" in text


def test_the_wrapper_is_guessed():
    text = said({**renamed(lambda name: f"backbone.{name}"), "backbone.head.weight": (1,)})
    assert "Every stored name starts with `backbone.`" in text


def test_another_network_altogether():
    assert "No name matches" in said({"a": (1,), "b": (2,)})


def test_shapes_that_differ_are_all_told():
    text = said({**TARGET, "fc1.weight": (8, 3), "fc1.bias": (8,)})
    assert "fc1.weight (stored [8, 3], architecture [4, 3])" in text
    assert "fc1.bias" in text
    assert "fc2" not in text


def test_shared_prefixes_end_at_dots():
    assert shared_prefix(["ab.c", "ab.d"]) == "ab."
    assert shared_prefix(["abc.x", "abd.x"]) == ""
    assert shared_prefix(["a.b.c.w", "a.b.d.w"]) == "a.b."
    assert shared_prefix(["w"]) == ""
