"""Two checkpoints of different runs compared, with the recipe of neither but the one that is named; in this process."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from sounding.asking import analyse
from sounding.running import catalogue

RECIPE = """
import torch
from sounding.recipe import Probe
version = 1
def architecture(checkpoint):
    return torch.nn.Linear(2, 1, bias=False)
def probe(run):
    return Probe(train=(torch.eye(2), torch.ones(2)))
def loss(outputs, targets, inputs):
    return -outputs[:, 0] ** 2
"""


def called_here(child: Any, target: str, arguments: tuple[Any, ...], limits: Any) -> Any:
    """What a child would be asked for."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def saved(directory: Path, weights: list[float]) -> Path:
    directory.mkdir(parents=True)
    torch.save({"model": {"weight": torch.tensor([weights])}}, directory / "ckpt_7.pt")
    return directory / "ckpt_7.pt"


def test_the_line_to_a_checkpoint_of_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (analyse, catalogue):
        monkeypatch.setattr(module, "call_and_wait", called_here)
    here, there = saved(tmp_path / "fast", [4.0, 2.0]), saved(tmp_path / "slow", [0.0, 2.0])
    (tmp_path / "recipe.py").write_text(RECIPE, encoding="utf-8")
    found = analyse.analyse(here, plugins=["interpolation"], recipe=tmp_path / "recipe.py", against=there)
    curve = next(each for each in found.curves if each["metric"] == "loss")
    assert curve["y"] == pytest.approx([-((4 * share) ** 2 + 4) / 2 for share in curve["x"]])
    values = {each["metric"]: each["value"] for each in found.readings}
    assert values["loss_barrier_line"] == pytest.approx(2.0)  # of -8s² over the line to -8, at its middle
    assert found.notes == ()
