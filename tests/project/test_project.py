"""What holds the project together: pinned versions, paths, the wheel's contents, and the promises of every command."""

import re
import subprocess
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from typer.testing import CliRunner

from sounding_cli.app import COMMANDS, app
from sounding_cli.demo import quickstart

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LISTINGS = ("check", "scan", "status", "why", "runs", "checkpoints", "metrics", "plugins", "show", "query", "analyse")


def requirements() -> list[Requirement]:
    texts = list(PROJECT["project"]["dependencies"])
    texts += [text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
    found = [Requirement(text) for text in texts]
    return [requirement for requirement in found if requirement.name != "sounding"]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): Version(number) for name, number in pairs}


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_within_its_range_and_installed_as_pinned(requirement: Requirement) -> None:
    pinned = pins()[requirement.name.lower()]
    assert requirement.specifier.contains(pinned), f"{requirement} but constraints.txt has {pinned}"
    assert Version(version(requirement.name)).public == pinned.public


def product_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_place_of_the_machine_it_was_written_on() -> None:
    places = re.compile(rf"{re.escape(str(ROOT))}\b|/{'work'}/|/{'root'}/|/{'home'}/\w+")
    named = []
    for path in product_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # data, not text
        named += [f"{path.relative_to(ROOT)}: {found[0]}" for found in [places.search(text)] if found]
    assert named == []


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_says_what_it_does_and_what_its_options_are(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], prog_name="sounding", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    described = [line for line in result.stdout.splitlines() if re.search(r"--\w", line) and "Usage" not in line]
    assert described
    for line in described:
        assert re.search(r"\w{3,} \w+", line.split("--", 1)[1]), f"an option without help: {line}"
    assert len(result.stdout.split("Usage:")[1].strip().splitlines()[2].strip()) > 20


@pytest.mark.parametrize("command", LISTINGS)
def test_every_listing_has_json(command: str) -> None:
    assert "--json" in CliRunner().invoke(app, [command, "--help"], prog_name="sounding").stdout


def test_the_help_lists_every_command_with_a_sentence() -> None:
    text = CliRunner().invoke(app, ["--help"], prog_name="sounding", env={"COLUMNS": "120"}).stdout
    for command in COMMANDS:
        assert re.search(rf"│ {command} +[A-Z]", text), command


def test_make_lists_the_developers_verbs() -> None:
    text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"help", "demo", "test", "check", "bench", "soak"} <= {line.split()[1] for line in text.splitlines()}


def test_the_quickstart_is_found_in_a_checkout() -> None:
    assert (quickstart() / "train.py").is_file()


def test_a_wheel_has_the_three_rooms_and_the_quickstart(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"sounding/records/job.py", "sounding/py.typed", "sounding_plugins/loss.py", "sounding_cli/app.py"}
    assert expected <= names
    assert {
        f"sounding_cli/quickstart/{name}" for name in ("train.py", "recipe.py", "sounding.toml", "README.md")
    } <= names
    assert not any(name.startswith(("tests/", "daemon/", "examples/")) for name in names)
