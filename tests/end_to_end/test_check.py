"""`check` says what is wrong and what to write; weights-only plugins run whatever the recipe is like."""

import pytest
import torch
from end_to_end.lab import CONFIG, HERE, Lab

from sounding.asking.check import check
from sounding.asking.problem import Problem
from sounding.config import load_config
from sounding.errors import SoundingError
from sounding.running.service import watch

GOOD = (HERE / "recipe.py").read_text()
NAMES = "nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Lab:
    lab = Lab.at(tmp_path_factory.mktemp("check"), CONFIG)
    lab.train_here("a", 4, 2)
    return lab


def problems(lab: Lab, recipe: str | None = GOOD, config: str = CONFIG) -> list[Problem]:
    path = lab.path / "recipe.py"
    path.unlink(missing_ok=True)
    if recipe is not None:
        path.write_text(recipe)
    lab.config.write_text(config)
    return [problem for problem in check(load_config(lab.config)) if problem.severity != "ok"]


def test_nothing_is_wrong_with_a_good_configuration(lab):
    assert problems(lab) == []


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (None, ["recipe.py", "no such file"]),
        (GOOD + "\nraise RuntimeError('boom')", ["boom"]),
        ("version = 1\n", ["architecture", "def architecture(checkpoint)"]),
        (GOOD.replace("return train.network()", "return train.network"), ["torch.nn.Module"]),
        (
            GOOD.replace("return train.network()", "import torch; return torch.nn.Linear(8, 2)"),
            ["missing", "unexpected", "0.weight"],
        ),
        (
            GOOD.replace("return train.network()", f"from torch import nn; return {NAMES.replace('16', '17')}"),
            ["0.weight", "17", "16"],
        ),
        (GOOD.replace("Probe(train=", "dict(train="), ["Probe"]),
        (GOOD.replace("train.data(1, 256)", "(train.data(1, 256)[0], train.data(1, 255)[1])"), ["256", "255"]),
        (GOOD.replace("train.data(1, 256)", "(train.data(1, 256)[0][:, :5], train.data(1, 256)[1])"), ["train"]),
    ],
)
def test_a_wrong_recipe_is_explained(lab, recipe, words):
    found = [problem for problem in problems(lab, recipe) if problem.severity == "error"]
    assert len(found) >= 1
    text = "\n".join(f"{problem.where} {problem.what} {problem.advice}" for problem in found)
    assert all(word.lower() in text.lower() for word in words), text
    assert "Traceback" not in text


def test_a_store_without_recipe_is_told_what_it_misses(lab):
    (found,) = problems(lab, GOOD, CONFIG.replace('recipe = "recipe.py"', ""))
    assert found.severity == "warning"
    assert "gradient_norm, loss" in found.what
    assert 'recipe = "recipe.py"' in found.advice


def test_a_pattern_that_matches_nothing_shows_what_is_there(lab):
    found = problems(lab, GOOD, CONFIG.replace("ckpt_{step}.pt", "checkpoint-{step}"))
    assert any("{run}/checkpoint-{step}" in problem.what and "a/ckpt_2.pt" in problem.advice for problem in found)


def test_a_plugin_that_does_not_exist_is_named(lab):
    found = problems(lab, GOOD, CONFIG + "[plugins.wieght_norm]\nenabled = true\n")
    text = "\n".join(f"{problem.where} {problem.what} {problem.advice}" for problem in found)
    assert "wieght_norm" in text
    assert "weight_norm" in text


@pytest.mark.parametrize("recipe", [None, "version = 1\n", GOOD + "\nraise RuntimeError('boom')"])
def test_plugins_over_the_weights_run_all_the_same(lab, tmp_path, recipe):
    problems(lab, recipe, CONFIG.replace("[[stores]]", f'[results]\npath = "{tmp_path}"\n[[stores]]'))
    status = watch(load_config(lab.config), once=True)
    assert len(status.recipe_problems) == 1
    assert (status.done, status.failed, status.owed) == (3, 0, 0)  # two norms, one change


def test_who_leaves_when_nothing_comes_measures_the_ends_of_runs_first(tmp_path):
    ends = CONFIG.replace('recipe = "recipe.py"', "") + '[plugins.weight_norm]\nat = "first,last"\n'
    lab = Lab.at(tmp_path, ends)
    (lab.path / "runs" / "a").mkdir()
    for step in (1, 2, 3):
        torch.save({"model": {"w": torch.full((2, 2), float(step))}}, lab.path / "runs" / "a" / f"ckpt_{step}.pt")
    status = watch(load_config(lab.config), until_idle=0.0)
    assert (status.done, status.failed, status.owed) == (2 + 2, 0, 0)  # two norms, two changes
    assert lab.sql("SELECT step FROM outcomes WHERE plugin = 'weight_norm' ORDER BY step") == [(1,), (3,)]


def test_results_inside_a_store_are_refused(lab):
    lab.config.write_text('[results]\npath = "runs/results"\n' + CONFIG)
    with pytest.raises(SoundingError, match="nothing is ever"):
        load_config(lab.config)


def test_what_was_unwrapped_and_what_is_not_read_is_said(tmp_path):
    wrapped = Lab.at(tmp_path, CONFIG.replace('recipe = "recipe.py"', ""))
    (wrapped.path / "runs" / "a").mkdir()
    state = {"module.w": torch.ones(2, 2), "module.mask": torch.eye(2).to_sparse()}
    torch.save({"state_dict": state}, wrapped.path / "runs" / "a" / "ckpt_1.pt")
    found = {problem.what: problem.severity for problem in check(load_config(wrapped.config))}
    assert found["weights: taken from state_dict, removed module."] == "ok"
    assert found["mask: a sparse tensor, which is not read"] == "warning"


def test_networks_of_a_checkpoint_are_told_apart_and_asked_for(tmp_path):
    both = Lab.at(tmp_path, CONFIG.replace('recipe = "recipe.py"', ""))
    (both.path / "runs" / "a").mkdir()
    raw = {"w": torch.full((2, 2), 3.0)}
    torch.save({"model": raw, "ema": {"shadow": {"w": torch.ones(2, 2)}}}, both.path / "runs" / "a" / "ckpt_1.pt")
    asked = [problem for problem in check(load_config(both.config)) if "several networks" in problem.what]
    assert [problem.severity for problem in asked] == ["warning"]
    assert 'ema = "ema.shadow"; model = "model"' in asked[0].advice
    models = '\n[stores.models]\nraw = "model"\naveraged = "ema.shadow"\nlost = "teacher"\n'
    both.config.write_text(both.config.read_text().replace("\n[daemon]", f"{models}\n[daemon]"))
    (wrong,) = [problem for problem in check(load_config(both.config)) if problem.severity == "error"]
    assert (wrong.where, wrong.what) == ("store runs: models.lost", "no checkpoint holds a network 'teacher'")
    both.config.write_text(both.config.read_text().replace('lost = "teacher"\n', ""))
    watch(load_config(both.config), once=True)
    found = both.sql("SELECT model, value FROM readings WHERE metric = 'frobenius' ORDER BY model")
    assert found == [("averaged", 2.0), ("raw", 6.0)]
