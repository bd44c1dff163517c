"""`init` and `check`."""

from dataclasses import dataclass

import pytest
from cli.lab import Lab

from sounding.config import load_config


@pytest.fixture
def bare(empty_lab: Lab) -> Lab:
    (empty_lab.path / "sounding.toml").unlink()
    for run, step in (("a", 1), ("a", 2), ("b", 1)):
        path = empty_lab.path / "runs" / run / f"step_{step}.pt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return empty_lab


def test_init_writes_a_configuration_and_says_what_it_saw(bare: Lab) -> None:
    text = bare.run("init", "runs")
    assert "{run}/step_{step}.pt  3 found" in text
    settings = load_config(bare.path / "sounding.toml")
    assert [pattern.text for pattern in settings.stores[0].patterns] == ["{run}/step_{step}.pt"]
    assert sorted(path.name for path in (bare.path / "runs").iterdir()) == ["a", "b"]


def test_init_overwrites_only_when_told(bare: Lab) -> None:
    (bare.path / "sounding.toml").write_text("mine", encoding="utf-8")
    assert "--force" in bare.error("init", "runs")
    assert (bare.path / "sounding.toml").read_text(encoding="utf-8") == "mine"
    bare.run("init", "runs", "--force")
    assert load_config(bare.path / "sounding.toml").stores


def test_init_writes_where_it_is_told(bare: Lab) -> None:
    (bare.path / "conf").mkdir()
    bare.run("init", "runs", "--config", "conf/lab.toml")
    assert load_config(bare.path / "conf" / "lab.toml").stores[0].path == bare.path / "runs"


def test_init_takes_a_recipe_that_lies_there(bare: Lab) -> None:
    (bare.path / "recipe.py").write_text("", encoding="utf-8")
    bare.run("init", "runs")
    assert load_config(bare.path / "sounding.toml").stores[0].recipe == bare.path / "recipe.py"


def test_init_never_writes_into_the_directory_that_will_be_watched(bare: Lab) -> None:
    inside = Lab(bare.path / "runs")
    assert "nothing is ever written" in inside.error("init", ".")
    assert not (bare.path / "runs" / "sounding.toml").exists()


@dataclass
class Problem:
    where: str
    what: str
    advice: str
    severity: str


@pytest.mark.parametrize(("severity", "code"), [("ok", 0), ("warning", 0), ("error", 1)])
def test_check_exits_1_only_on_errors_and_prints_advice(
    empty_lab: Lab, monkeypatch: pytest.MonkeyPatch, severity: str, code: int
) -> None:
    found = [Problem("recipe.py", "defines no `probe`", "write def probe(run): …", severity)]
    monkeypatch.setattr("sounding.asking.check.check", lambda settings: found)
    text = empty_lab.run("check", code=code)
    assert "recipe.py  defines no `probe`" in text
    assert "write def probe(run): …" in text
    result = empty_lab.outcome("check", "--json")
    assert (result.exit_code, f'"severity": "{severity}"' in result.stdout) == (code, True)
