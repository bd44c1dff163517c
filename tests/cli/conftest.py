"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest
from cli.lab import CONFIG, LOSS, LOSSES, MOMENT, NORM, STEPS, Lab

from sounding.keeping.rows import setting_row
from sounding.records import Reading, State


@pytest.fixture
def empty_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A configuration, a store, and no results at all."""
    monkeypatch.delenv("SOUNDING_CONFIG", raising=False)
    (tmp_path / "runs").mkdir()
    (tmp_path / "sounding.toml").write_text(CONFIG, encoding="utf-8")
    return Lab(tmp_path)


@pytest.fixture
def lab(empty_lab: Lab) -> Lab:
    """Run `fast` with four checkpoints and two plugins, run `slow` with one reading, and one half checkpoint."""
    empty_lab.publish([setting_row(LOSS, 0, MOMENT), setting_row(NORM, 0, MOMENT)])
    for place, step in enumerate(STEPS):
        empty_lab.see("fast", step)
        losses = [Reading("loss", LOSSES[split][place], split=split, stderr=0.0123) for split in ("train", "heldout")]
        empty_lab.record(LOSS, "fast", step, *losses)
        whole = Reading("frobenius", 3.0 + place)
        parts = [Reading("frobenius", 1.0 + place, part=f"layer{depth}.weight", depth=depth) for depth in range(2)]
        empty_lab.record(NORM, "fast", step, whole, *parts)
    empty_lab.see("slow", 100)
    empty_lab.record(LOSS, "slow", 100, Reading("loss", 2.0, split="train", quality="unconverged"))
    empty_lab.see("slow", 200, State.PENDING, "6 of 8 shards")
    empty_lab.attribute("fast", "lr", 0.1)
    empty_lab.attribute("slow", "lr", 0.01)
    empty_lab.attribute("fast", "width", 16)
    empty_lab.attribute("slow", "width", 16)
    return empty_lab
