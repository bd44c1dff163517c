"""Every command, script and configuration that the documents show is run, in a small trained store."""

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import invoke

from sounding.config import load_config
from sounding.running.dispatch import Child, Limits, call_and_wait

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
DOCUMENTS = (ROOT / "README.md", QUICKSTART / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
RUN = ("console", "bash", "python", "toml")
PROBED = "train, heldout = data()\n"  # what the recipe has to measure on
FEW = 48  # images of it that are measured here: all of them cost minutes, and nothing shown is more true by them
# What `python -m sounding_cli` does, but for where the files are that the demo copies.
COMMAND = "from sounding_cli import app, demo; demo.quickstart = lambda: demo.Path({files!r}); app.main()"
FENCE = re.compile(r"(?:<!-- not run: (?P<excuse>[^>]+?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    place: str
    language: str
    text: str
    excuse: str | None


def blocks() -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            line = text.count("\n", 0, fence.start("text"))
            place = f"{document.relative_to(ROOT)}:{line}"
            found.append(Block(place, fence["language"], fence["text"], fence["excuse"]))
    return [block for block in found if block.language in RUN]


BLOCKS = blocks()


@dataclass(frozen=True)
class Demo:
    """What the demo said on a terminal, and the directory that it left."""

    text: str
    home: Path


def quickstart(directory: Path) -> Path:
    """The files of the quickstart as they are shipped, but for the number of images."""
    shutil.copytree(QUICKSTART, directory)
    recipe = directory / "recipe.py"
    text = recipe.read_text(encoding="utf-8")
    assert text.count(PROBED) == 1
    few = f"    train, heldout = [(images[:{FEW}], labels[:{FEW}]) for images, labels in (train, heldout)]\n"
    recipe.write_text(text.replace(PROBED, PROBED + few), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo with two short trainings; its directory is the one that the documents speak of."""
    directory = tmp_path_factory.mktemp("lab")
    files = quickstart(tmp_path_factory.mktemp("files") / "quickstart")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(files=str(files)), "demo", "--epochs", "2"],
        cwd=directory,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"},
    )
    os.close(slave)
    text = b"".join(iter(lambda: _read(master), b"")).decode()
    os.close(master)
    assert process.wait(timeout=60) == 0, text
    return Demo(text, directory / "sounding-demo")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""  # the other end of a terminal that has closed


@pytest.fixture
def store(demo: Demo) -> Path:
    return demo.home


def test_the_demo_trains_measures_and_reports(demo: Demo) -> None:
    for expected in ("loss", "accuracy", "weight_norm", "step", "heldout", "Try next:", "cd sounding-demo"):
        assert expected in demo.text
    listed = invoke(demo.home, "checkpoints", "--json")
    seen = sorted((row["run"], row["step"]) for row in json.loads(listed.stdout))
    assert seen == [("lr0.01", 0), ("lr0.01", 40), ("lr0.1", 0), ("lr0.1", 40)]


def command(line: str, cwd: Path) -> None:
    """Run a line of ours in this process, which spares it the start of one and of torch, and any other in a shell.

    What leaves a process behind is left to the shell too, which does not mind.
    """
    words = shlex.split(line, comments=True)
    if words[0] != "sounding" or words[1] == "start":
        run(["bash", "-euc", line], cwd)
        return
    ended = invoke(cwd, *words[1:])
    assert ended.exit_code == 0, f"{line} exited {ended.exit_code}:\n{ended.output}"


def run(command: list[str], cwd: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=180)
    assert ended.returncode == 0, f"{command} exited {ended.returncode}:\n{ended.stdout}{ended.stderr}"


def commands(text: str) -> list[str]:
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in ("console", "bash") and not block.excuse],
    ids=lambda b: b.place,
)
def test_commands_succeed(block: Block, store: Path) -> None:
    lines = commands(block.text) if block.language == "console" else [block.text]
    assert lines, "a console block shows commands behind `$ `"
    config = store / "sounding.toml"
    original = config.read_text(encoding="utf-8")
    try:
        for line in lines:
            if line.startswith("sounding init"):
                config.unlink()
            command(line, store)
    finally:
        config.write_text(original, encoding="utf-8")


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "python" and not block.excuse], ids=lambda b: b.place
)
def test_scripts_run(block: Block, store: Path) -> None:
    child = Child("script")
    try:
        call_and_wait(child, "docs.script:run", (block.text, block.place, str(store)), Limits(120.0, 4 << 30))
    finally:
        child.stop()


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "toml" and not block.excuse], ids=lambda b: b.place
)
def test_configurations_are_valid(block: Block, tmp_path: Path) -> None:
    if "project" in tomllib.loads(block.text):
        return  # a package's pyproject.toml, which is no configuration of ours; that it parses is all there is to say
    config = tmp_path / "sounding.toml"
    config.write_text(block.text, encoding="utf-8")
    assert load_config(config).stores or "[[stores]]" not in block.text


def test_few_blocks_are_excused() -> None:
    assert len([block for block in BLOCKS if block.excuse]) <= 3


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document}: {target}"


def test_every_command_is_in_the_readme() -> None:
    from sounding_cli.app import COMMANDS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [command for command in COMMANDS if f"`{command}`" not in text] == []
