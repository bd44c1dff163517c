"""Directions of changes that were made by hand, and rows of known sparsity."""

import math
from typing import Any

import pytest
import torch

from sounding import Reading, Skip
from sounding.testing import Trial
from sounding_plugins.update_geometry import row_sparsity, update_geometry


def values(findings: Any, part: str) -> dict[str, float]:
    return {each.metric: each.value for each in findings if isinstance(each, Reading) and each.part == part}


def test_a_change_is_parted_along_and_across(sounding_plugin: Trial):
    before = {"w": torch.tensor([3.0, 4.0]), "b": torch.tensor([2.0])}
    after = {"w": torch.tensor([3.0, 4.0]) + 0.1 * torch.tensor([0.6, 0.8]) + 0.2 * torch.tensor([-0.8, 0.6]),
             "b": torch.tensor([1.5])}  # fmt: skip
    found = sounding_plugin(update_geometry, checkpoint={"model": after}, previous={"model": before})
    w = values(found, "w")
    assert w["radial"] == pytest.approx(0.1, rel=1e-5)
    assert w["tangential"] == pytest.approx(0.2, rel=1e-5)
    assert w["cosine"] == pytest.approx(0.1 / math.hypot(0.1, 0.2), rel=1e-5)
    assert w["cosine_scaled"] == pytest.approx(w["cosine"] * math.sqrt(2))
    assert values(found, "b") == pytest.approx({"radial": -0.5, "tangential": 0.0, "cosine": -1.0, "cosine_scaled": 1})
    whole = values(found, "")
    along = (0.5 - 1.0) / math.sqrt(29)  # (w.d + b.d) / |x|
    assert whole["radial"] == pytest.approx(along, rel=1e-5)
    assert whole["tangential"] == pytest.approx(math.sqrt(0.05 + 0.25 - along**2), rel=1e-5)


def test_random_changes_are_as_much_across_as_chance_has_it(sounding_plugin: Trial):
    generator = torch.Generator().manual_seed(0)
    before = {f"w{place}": torch.randn(60, 50, generator=generator) for place in range(40)}
    after = {name: tensor + 0.01 * torch.randn(60, 50, generator=generator) for name, tensor in before.items()}
    found = sounding_plugin(update_geometry, checkpoint={"model": after}, previous={"model": before})
    scaled = torch.tensor([values(found, name)["cosine_scaled"] for name in before])
    assert float(scaled.mean()) == pytest.approx(math.sqrt(2 / math.pi), abs=4 * float(scaled.std()) / math.sqrt(40))


def test_rows_drift_to_sparsity(sounding_plugin: Trial):
    before, after = torch.ones(4, 5), torch.ones(4, 5)
    after[1:] = 0.0
    found = values(
        sounding_plugin(update_geometry, checkpoint={"model": {"w": after}}, previous={"model": {"w": before}}), "w"
    )
    assert found["row_sparsity"] == pytest.approx(1.0)
    assert found["row_sparsity_drift"] == pytest.approx(1.0)


def test_known_sparsities():
    assert row_sparsity(torch.ones(9, 3)) == pytest.approx(0.0)
    assert row_sparsity(torch.diag(torch.tensor([3.0, 4.0]))) == pytest.approx(
        (math.sqrt(2) - 7 / 5) / (math.sqrt(2) - 1)
    )
    assert row_sparsity(torch.ones(1, 3)) is None
    assert row_sparsity(torch.zeros(3, 3)) is None
    assert row_sparsity(torch.ones(3, 2, 2, 2) * torch.tensor([1.0, 0, 0]).reshape(3, 1, 1, 1)) == pytest.approx(1.0)


def test_what_has_no_direction_says_so(sounding_plugin: Trial):
    before = {"zero": torch.zeros(3), "still": torch.ones(3), "gone": torch.ones(2)}
    after = {"zero": torch.ones(3), "still": torch.ones(3)}
    found = sounding_plugin(update_geometry, checkpoint={"model": after}, previous={"model": before})
    skipped = {each.part: each.reason for each in found if isinstance(each, Skip)}
    assert set(skipped) == {"zero", "still", "gone"}
    assert values(found, "still") == {"radial": 0.0, "tangential": 0.0}


def test_changes_below_the_last_bit_are_unresolved(sounding_plugin: Trial):
    x = torch.randn(1 << 14, generator=torch.Generator().manual_seed(5)).bfloat16()
    y = x.clone()
    y[0] *= 1 + 2**-7
    found = sounding_plugin(update_geometry, checkpoint={"model": {"w": y}}, previous={"model": {"w": x}})
    assert {each.quality for each in found if isinstance(each, Reading)} == {"unresolved"}
