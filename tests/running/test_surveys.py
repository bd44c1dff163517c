"""What recipes promise: asked when something changed, and no answer ever meets another question."""

import os
from pathlib import Path

import pytest
from making import checkpoint

from sounding.contract import Run
from sounding.records import RecipeSheet
from sounding.running.surveys import Surveys

ONE, TWO = RecipeSheet(1, {"probe": "one"}), RecipeSheet(2, {"probe": "two"})
NAME = ("runs", "a")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text("version = 1")
    os.utime(path, ns=(1, 1))
    return path


def run(name: str = "a", **attributes: float) -> Run:
    return Run("runs", name, attributes)


def test_a_question_is_asked_once_and_its_answer_kept(recipe: Path):
    surveys = Surveys()
    assert surveys.answer(recipe, run()) is None
    survey = surveys.ask(recipe, run(), checkpoint())
    assert survey is not None
    assert (survey.recipe, survey.run) == (str(recipe), run())
    assert surveys.ask(recipe, run(), checkpoint()) is None, "it is under way"
    assert surveys.take(survey, ONE) == NAME
    assert surveys.answer(recipe, run()) == ONE
    assert surveys.answer(recipe, run("b")) is None


@pytest.mark.parametrize("change", ["time", "size", "attributes", "recipe", "deletion"])
def test_a_changed_question_has_no_answer_yet(recipe: Path, change: str):
    surveys = Surveys()
    survey = surveys.ask(recipe, run(lr=0.1), checkpoint())
    assert survey is not None
    surveys.take(survey, ONE)
    about, asked = run(lr=0.1), recipe
    if change == "time":
        os.utime(recipe, ns=(2, 2))
    elif change == "size":
        recipe.write_text("version = 22")
        os.utime(recipe, ns=(1, 1))
    elif change == "attributes":
        about = run(lr=0.2)
    elif change == "recipe":
        asked = recipe.with_name("other.py")
        asked.write_text("version = 1")
    else:
        recipe.unlink()
    assert surveys.answer(asked, about) is None
    again = surveys.ask(asked, about, checkpoint())
    assert again is not None
    surveys.take(again, TWO)
    assert surveys.answer(asked, about) == TWO


def test_an_answer_to_a_question_that_has_changed_meanwhile_is_not_taken_for_the_new_one(recipe: Path):
    surveys = Surveys()
    first = surveys.ask(recipe, run(), checkpoint())
    os.utime(recipe, ns=(2, 2))
    second = surveys.ask(recipe, run(), checkpoint())
    assert first is not None
    assert second is not None
    assert surveys.take(first, ONE) == NAME
    assert surveys.answer(recipe, run()) is None
    assert surveys.ask(recipe, run(), checkpoint()) is None, "the second is still under way"
    surveys.take(second, TWO)
    assert surveys.answer(recipe, run()) == TWO


def test_an_answer_in_doubt_is_asked_for_again(recipe: Path):
    surveys = Surveys()
    survey = surveys.ask(recipe, run(), checkpoint())
    assert survey is not None
    surveys.take(survey, ONE)
    surveys.doubt(NAME)
    surveys.doubt(("runs", "never surveyed"))
    assert surveys.answer(recipe, run()) is None
    assert surveys.ask(recipe, run(), checkpoint()) is not None


def test_problems_name_the_run(recipe: Path):
    surveys = Surveys()
    for name, error in (("a", ""), ("b", "no probe"), ("c", "no loss")):
        survey = surveys.ask(recipe, run(name), checkpoint())
        assert survey is not None
        surveys.take(survey, RecipeSheet(error=error))
    assert surveys.problems() == ("runs/b: no probe", "runs/c: no loss")
    survey = surveys.ask(recipe, run("b", lr=1.0), checkpoint())
    assert survey is not None
    surveys.take(survey, ONE)
    assert surveys.problems() == ("runs/c: no loss",)
