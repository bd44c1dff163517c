"""Finding the configuration and the results, as cheaply as readers need it."""

import subprocess
import sys
from pathlib import Path

import pytest
from making import CONFIG

from sounding.config import load_config
from sounding.errors import SoundingError
from sounding.locate import find_config, results_path


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SOUNDING_CONFIG", raising=False)


def test_the_nearest_configuration_above_is_found(tmp_path: Path):
    (tmp_path / "sounding.toml").touch()
    deep = tmp_path / "one" / "two"
    deep.mkdir(parents=True)
    assert find_config(start=deep) == tmp_path / "sounding.toml"
    (tmp_path / "one" / "sounding.toml").touch()
    assert find_config(start=deep) == tmp_path / "one" / "sounding.toml"


def test_the_one_named_goes_before_the_environment_and_that_before_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("sounding.toml", "named.toml", "environment.toml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert find_config() == tmp_path / "sounding.toml"
    monkeypatch.setenv("SOUNDING_CONFIG", "environment.toml")
    assert find_config() == tmp_path / "environment.toml"
    assert find_config("named.toml") == tmp_path / "named.toml"


def test_none_at_all_says_how_to_get_one(tmp_path: Path):
    with pytest.raises(SoundingError, match="sounding init") as refusal:
        find_config(start=tmp_path)
    assert str(tmp_path) in str(refusal.value)


def test_a_named_configuration_that_is_missing_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "sounding.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SoundingError, match=r"other\.toml: no such configuration file"):
        find_config("other.toml")


@pytest.mark.parametrize(
    ("text", "below"),
    [
        ("", ".sounding"),
        ("[results]\n", ".sounding"),
        ('[results]\npath = "out/readings"\n', "out/readings"),
        ('[results]\npath = "../readings"\n', "../readings"),
        ('[results]\npath = "/somewhere/readings"\n', "/somewhere/readings"),
        ('[results]\npath = "~/readings"\n', "~/readings"),
    ],
)
def test_readers_and_the_daemon_come_to_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, below: str
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    real = tmp_path / "far" / "away"
    real.mkdir(parents=True)
    (tmp_path / "lab").symlink_to(real)  # `..` means the directory above the link to both, or to neither
    config = tmp_path / "lab" / "sounding.toml"
    config.write_text(text)
    expected = {
        "../readings": tmp_path / "readings",
        "~/readings": tmp_path / "home" / "readings",
        "/somewhere/readings": Path("/somewhere/readings"),
    }.get(below, tmp_path / "lab" / below)
    assert results_path(config) == load_config(config).results == expected


@pytest.mark.parametrize("text", ["results = 3", "[results]\npath = 3", 'results = "here"'])
def test_results_of_another_type_are_refused_with_an_example(tmp_path: Path, text: str):
    config = tmp_path / "sounding.toml"
    config.write_text(text)
    with pytest.raises(SoundingError, match=r'results\.path: expected a text, for example path = "\.sounding"'):
        results_path(config)


@pytest.mark.parametrize(("content", "words"), [(b"path = = 3", "line 1"), (b"\xff\xfe", "not valid TOML")])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes, words: str):
    config = tmp_path / "sounding.toml"
    config.write_bytes(content)
    with pytest.raises(SoundingError, match=words) as refusal:
        results_path(config)
    assert str(config) in str(refusal.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(SoundingError, match="cannot be read: Is a directory"):
        results_path(tmp_path)


def test_finding_the_results_imports_nothing_heavy(tmp_path: Path):
    (tmp_path / "sounding.toml").write_text(CONFIG)
    script = (
        "import sys\n"
        "from sounding.locate import find_config, results_path\n"
        "print(results_path(find_config()))\n"
        "print(sorted({'pydantic', 'duckdb', 'torch', 'pyarrow', 'pandas', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / ".sounding"), "[]"]
