"""Every bundled plugin has a test, a doc page, and metrics that say what they are."""

import pkgutil
import re
from pathlib import Path

import pytest

import sounding_plugins
from sounding.measuring.describing import describe
from sounding.measuring.discovery import load

ROOT = Path(__file__).parents[2]
CARET = re.compile(r"[\w)|]\^-?\d")  # a power is written weight², not weight^2, which queries would not find
SHEETS = {name: sheet for name, sheet in describe({}, {}).plugins.items() if ": sounding_plugins." in sheet.origin}


def test_every_module_brings_a_plugin_of_its_own_name():
    assert {module.name for module in pkgutil.iter_modules(sounding_plugins.__path__)} == set(SHEETS)


@pytest.mark.parametrize("name", SHEETS)
def test_it_has_a_test(name: str):
    assert (ROOT / "tests" / "plugins" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", SHEETS)
def test_its_metrics_say_what_they_are(name: str):
    for metric in SHEETS[name].metrics:
        assert metric.unit
        assert metric.meaning
        assert metric.source
        assert not CARET.search(f"{metric.unit} {metric.meaning} {metric.source}"), metric.name
    assert SHEETS[name].summary.endswith(".")


@pytest.mark.parametrize("name", SHEETS)
def test_its_page_tells_formula_unit_source_cost_and_traps(name: str):
    page = (ROOT / "docs" / "plugins" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    for word in ("formula", "unit", "**Source.**", f"**Cost.** `{SHEETS[name].cost}`", "## Traps"):
        assert word in page, word
    for thing in (*SHEETS[name].metrics, *SHEETS[name].options):
        assert f"`{thing.name}" in page, thing.name
    for unit in {metric.unit for metric in SHEETS[name].metrics}:
        assert unit in page, unit


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], ids=lambda page: page.stem)
def test_a_page_writes_powers_as_the_metrics_do(page: Path):
    assert CARET.findall(page.read_text(encoding="utf-8")) == []


LOOKS_AT = {
    ("checkpoint", None): "a checkpoint",
    ("pair", "previous"): "it and the previous one",
    ("pair", "first"): "it and the first one",
    ("run", None): "a run",
}


def index() -> dict[str, list[str]]:
    """The cells of the index's rows, by plugin."""
    text = (ROOT / "docs" / "plugins" / "README.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| [`")]
    return {cells[0].removeprefix("[`").partition("`]")[0]: cells for cells in lines}


def test_the_index_lists_nothing_else():
    assert set(index()) == set(SHEETS)


@pytest.mark.parametrize("name", SHEETS)
def test_the_index_tells_what_it_answers_and_costs(name: str):
    sheet = SHEETS[name]
    link, question, yields, looks_at, cost = index()[name]
    assert link == f"[`{name}`]({name}.md)"
    assert question.endswith("?")
    assert yields == sheet.summary
    assert looks_at == LOOKS_AT[sheet.over, sheet.against]
    assert cost.startswith(f"`{sheet.cost}`")
    page = (ROOT / "docs" / "plugins" / f"{name}.md").read_text(encoding="utf-8").partition("**Cost.**")[2]
    told = " ".join(page.split())  # formulas may go over two lines
    assert [each for each in re.findall("`[^`]+`", cost) if each not in told] == []


def test_every_pass_is_on_the_page_of_passes():
    page = (ROOT / "docs" / "passes.md").read_text()
    own = [name for name, each in load().passes.items() if each.function.__module__.startswith("sounding.passes")]
    missing = [name for name in own if f"`{name}`" not in page]
    assert missing == []


@pytest.mark.parametrize("name", SHEETS)
def test_the_readme_lists_it(name: str):
    assert f"`{name}`" in (ROOT / "README.md").read_text()
