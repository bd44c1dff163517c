"""A dry run of the recipe: every problem in words, and silence when there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sounding.measuring.rehearsal import rehearse
from sounding.records import Checkpoint, Job

HEAD = "import torch\nfrom sounding.recipe import Probe\n"
NET = "def architecture(c): return torch.nn.Linear(3, 2).double()\n"
DATA = "def probe(run): return Probe(train=(torch.ones(9, 3).double(), torch.arange(9) % 2))\n"


@pytest.fixture
def rehearsed(linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], recipe_file: Callable[..., Path]):
    def run(text: str) -> list[str]:
        return rehearse(job_of(linear[0], recipe=recipe_file(HEAD + text, "tried.py")))

    return run


def test_a_good_recipe_has_no_problems(linear: tuple[Checkpoint, Path], job_of: Callable[..., Job]):
    assert rehearse(job_of(linear[0], recipe=linear[1])) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DATA, ["defines no `architecture`"]),
        (NET, ["defines no `probe`"]),
        (NET.replace("(3, 2)", "(4, 2)") + DATA, ["weight (stored [2, 3], architecture [2, 4])"]),
        (NET + DATA.replace("9, 3", "9, 5"), ["the train split: running the model failed: RuntimeError", "mat1"]),
        (NET + DATA + "def loss(o, t, i): return torch.zeros(())\n", ["returned shape () for 4 examples"]),
        (NET + DATA + "def loss(o, t, i): return o.sum(1) * torch.nan\n", ["is not finite"]),
        (NET + DATA + "def forward(m, x): raise KeyError('x')\n", ["KeyError", "tried.py:"]),
        (NET + DATA + "def forward(m, x): exit(2)\n", ["SystemExit: 2"]),
        (NET + DATA + "def forward(m, x): return m(x).detach()\n", ["does not depend on any parameter"]),
        (NET + DATA + "def head(model): return 'fc'\n", ["head returned 'fc', and the network has no such module"]),
        ("def architecture(c): return torch.nn.Sequential()\n", ["defines no `probe`", "Unexpected in the checkpoint"]),
    ],
)
def test_problems_are_said(rehearsed: Callable[[str], list[str]], text: str, words: list[str]):
    said = "\n".join(rehearsed(text))
    for word in words:
        assert word in said


def test_a_missing_recipe_file_and_none_at_all(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], tmp_path: Path
):
    (said,) = rehearse(job_of(linear[0], recipe=tmp_path / "absent.py"))
    assert "no such recipe" in said
    (said,) = rehearse(job_of(linear[0]))
    assert "the store has no recipe" in said


def test_the_model_is_left_alone(linear: tuple[Checkpoint, Path], job_of: Callable[..., Any]):
    before = torch.get_rng_state()
    rehearse(job_of(linear[0], recipe=linear[1]))
    assert torch.equal(torch.get_rng_state(), before)
    assert linear[0].path not in Path("/proc/self/maps").read_text()
