"""Checkpoints, recipes and jobs to measure with."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from sounding.measuring.collecting import Found
from sounding.measuring.discovery import Loaded, assemble, load
from sounding.records import Checkpoint, Job, Key, RecipeSheet, Subject, Task
from sounding.stamps import stamp_of


@pytest.fixture
def save(tmp_path: Path):
    """Write what a trainer would save, and say what the daemon knows of it."""

    def write(tree: Any, step: int = 1, run: str = "a") -> Checkpoint:
        path = tmp_path / f"{run}_{step}.pt"
        torch.save(tree, path)
        when = datetime(2026, 1, 1, tzinfo=UTC)
        return Checkpoint(f"{run}{step}", "lab", run, step, str(path), "torch", "", stamp_of(path), step, when)

    return write


@pytest.fixture
def with_plugins():
    """What is installed, and these plugins and passes besides."""

    def assembled(*items: Any) -> Loaded:
        installed = [Found(each, "sounding: installed") for each in load().passes.values()]
        loaded = assemble([*installed, *(Found(each, "test: here") for each in items)])
        assert loaded.refusals == ()
        return loaded

    return assembled


@pytest.fixture
def job_of():
    """A job of these plugins on this checkpoint."""

    def make(
        checkpoint: Checkpoint,
        *plugins: Any,
        previous: Checkpoint | None = None,
        recipe: Path | None = None,
        sheet: RecipeSheet | None = None,
        options: Any = None,
        network: str = "",
        passes: Any = None,
        attributes: Any = None,
        models: Any = None,
    ) -> Job:
        tasks = []
        for each in plugins:
            other = previous if each.over == "pair" else None
            subject = Subject(each.over, "lab", checkpoint.run, checkpoint.step, checkpoint.checkpoint_id, network)
            if other is not None:
                subject = Subject(
                    each.over, "lab", checkpoint.run, checkpoint.step, checkpoint.checkpoint_id, network,
                    other.run, other.step, other.checkpoint_id,
                )  # fmt: skip
            tasks.append(Task(Key(each.name, each.version, "", "", subject.identity), subject, options or {}))
        return Job(
            1,
            checkpoint,
            tuple(tasks),
            () if previous is None else (previous,),
            attributes or {},
            recipe=None if recipe is None else str(recipe),
            recipe_sheet=sheet,
            passes=passes or {},
            models=models or {},
        )

    return make


@pytest.fixture
def recipe_file(tmp_path: Path):
    """Write a recipe."""

    def write(text: str, name: str = "recipe.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


LINEAR = """
import torch
from sounding.recipe import Probe

version = 2

def architecture(checkpoint):
    return torch.nn.Linear(3, 2).double()

def probe(run):
    inputs = torch.arange(60, dtype=torch.float64).reshape(20, 3) / 60
    return Probe(train=(inputs, torch.arange(20) % 2), heldout=(inputs[:8] + 1, torch.arange(8) % 2))
"""


@pytest.fixture
def linear(recipe_file: Callable[..., Path], save: Callable[..., Checkpoint]):
    """A checkpoint of a small linear classifier, and its recipe."""
    torch.manual_seed(0)
    return save({"model": torch.nn.Linear(3, 2).double().state_dict()}), recipe_file(LINEAR)
