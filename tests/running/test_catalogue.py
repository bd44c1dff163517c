"""The catalogue: learnt in a child, kept beside the results for readers that need no plugin."""

import json
from pathlib import Path

import pytest
from making import sheet, uses

from sounding.config import load_config
from sounding.errors import SoundingError
from sounding.records import Catalogue, MetricSheet, OptionSheet, Refusal
from sounding.running.catalogue import CACHE, catalogue, recall, remember

BUNDLED = {"weight_norm", "weight_change", "loss", "gradient_norm"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path


def test_what_is_remembered_is_recalled(results: Path):
    metrics = (MetricSheet("a", "weight", "Größe", "definition"), MetricSheet("b", "1", "", "", "curve"))
    options = (OptionSheet("top_k", "int", 1, 10), OptionSheet("name", "str | None", None, "x"))
    plugins = (sheet("norm", metrics=metrics, options=options, passes=uses("weights", "optimizer")), sheet("loss"))
    found = Catalogue({one.name: one for one in plugins}, (Refusal("twin", "here", "used twice"),))
    remember(found, results)
    assert recall(results) == found
    assert [path.name for path in (results / "cache").iterdir()] == ["plugins.json"]


def test_before_the_first_daemon_there_is_nothing_to_recall(tmp_path: Path):
    assert recall(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"plugins": [{}], "refusals": []}', '{"plugins": [], "refusals": 3}']
)
def test_a_cache_of_another_version_is_said_to_be_deletable(results: Path, text: str):
    (results / CACHE).write_text(text)
    with pytest.raises(SoundingError, match="delete it, it is only a cache"):
        recall(results)


def test_a_field_that_a_newer_version_added_is_not_swallowed(results: Path):
    remember(Catalogue({"norm": sheet("norm")}), results)
    text = json.loads((results / CACHE).read_text())
    text["plugins"][0]["moon"] = "full"
    (results / CACHE).write_text(json.dumps(text))
    with pytest.raises(SoundingError, match="moon"):
        recall(results)


def test_plugins_are_discovered_in_a_child_with_the_options_of_the_configuration(tmp_path: Path):
    (tmp_path / "sounding.toml").write_text(
        "[plugins.weight_norm]\nno_such_option = 1\n[plugins.unheard_of]\ntop_k = 1\n[plugins.loss]\nat = 'log2'\n"
    )
    found = catalogue(load_config(tmp_path / "sounding.toml"))
    assert set(found.plugins) >= BUNDLED - {"weight_norm"}
    reasons = {refusal.name: refusal.reason for refusal in found.refusals}
    assert "no_such_option" in reasons["weight_norm"]
    assert "not installed" in reasons["unheard_of"]
    assert found.plugins["loss"].needs_recipe
    assert {used.name for used in found.plugins["weight_change"].passes} == {"pair", "weights"}
