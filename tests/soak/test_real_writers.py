"""Every library's own trainer writes, a daemon watches, and every reading is what the library reads itself."""

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from record import record

from sounding.asking.query import connect

ROOT = Path(__file__).parents[2]
WRITERS = Path(__file__).parent / "writers"
CONSTRAINTS = ROOT / "benchmarks" / "soak-constraints.txt"
PACKAGES = ["torch", "transformers", "accelerate", "lightning", "peft", "setuptools", "wheel"]
PATTERNS = {
    "hugging_face": "{run}/checkpoint-{step}",
    "accelerate_states": "{run}/checkpoints/checkpoint_{step}",
    "lightning_fit": "{run}/*.ckpt",
    "deepspeed_zero": "{run}/global_step{step}",
}
_NUMBERED = re.compile(r"(?:checkpoint[-_]|global_step|.*step=)(\d+)(?:\.ckpt)?")
CONFIG = """
[[stores]]
path = "store"
pattern = "{pattern}"
quiet_seconds = 1.0

[daemon]
scan_seconds = 0.2
nice = 0
"""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]


def _cache() -> Path:
    return Path(os.environ.get("SOUNDING_SOAK_CACHE", "~/.cache/sounding-soak")).expanduser()


@pytest.fixture(scope="session")
def python() -> str:
    """An environment with the trainers in it, made once for every set of versions."""
    directory = _cache() / hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:12]
    interpreter = directory / "bin" / "python"
    if not (directory / "whole").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)
        install = [str(interpreter), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS)]
        subprocess.run([*install, *PACKAGES], check=True)
        (directory / "whole").touch()
    return str(interpreter)


@pytest.fixture(scope="session")
def with_deepspeed(python: str) -> str:
    """The same, with DeepSpeed where it can be installed: it is built from source."""
    if subprocess.run([python, "-c", "import deepspeed"], capture_output=True).returncode:
        build = os.environ | {"DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu"}
        install = [python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "-c", str(CONSTRAINTS)]
        done = subprocess.run([*install, "deepspeed"], env=build, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"DeepSpeed cannot be installed here: {done.stderr.strip()[-200:]}")
    return python


@pytest.mark.parametrize("writer", [name for name in PATTERNS if name != "deepspeed_zero"])
def test_readings_equal_what_the_library_reads(writer: str, python: str, tmp_path: Path) -> None:
    _watched(writer, python, tmp_path)


def test_readings_equal_what_deepspeed_reads(with_deepspeed: str, tmp_path: Path) -> None:
    _watched("deepspeed_zero", with_deepspeed, tmp_path)


def _watched(writer: str, python: str, place: Path) -> None:
    (place / "store").mkdir()
    (place / "sounding.toml").write_text(CONFIG.replace("{pattern}", PATTERNS[writer]))
    sounding = [str(Path(sys.executable).parent / "sounding"), "--config", str(place / "sounding.toml"), "watch"]
    daemon = subprocess.Popen(sounding, stdout=subprocess.DEVNULL)
    try:
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        arguments = [python, str(WRITERS / f"{writer}.py"), str(place / "store"), str(place / "hand")]
        environment = clean | {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(arguments, check=True, env=environment, timeout=1500)
        _wait_for_survivors(place)
    finally:
        daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) == 0
    found = _compared(place)
    assert found["checkpoints_wrongly_complete"] == 0
    assert found["survivors_measured"] == found["survivors"] > 0
    assert isinstance(found["largest_relative_difference"], float)
    assert found["largest_relative_difference"] < 1e-12
    _record(writer, python, found)


def _survivors(place: Path) -> set[tuple[str, int]]:
    """Run and step of what the writer left, `last.ckpt` aside, which is one of the others."""
    store = place / "store"
    named = [(path.relative_to(store).parts[0], _NUMBERED.fullmatch(path.name)) for path in store.rglob("*")]
    steps = {(run, int(match[1])) for run, match in named if match is not None}
    return {(run, step) for run, step in steps if (place / "hand" / run / f"{step}.json").exists()}


def _readings(place: Path) -> Iterator[tuple[str, int, str, float]]:
    rows = connect(place / ".sounding").execute(
        "SELECT run, step, part, value FROM readings WHERE plugin = 'weight_norm' AND metric = 'frobenius'"
    )
    yield from rows.fetchall()


def _wait_for_survivors(place: Path) -> None:
    deadline = time.monotonic() + 120
    waiting = subprocess.Popen(["sleep", "120"])
    try:
        while not _survivors(place) <= {(run, step) for run, step, _, _ in _readings(place)}:
            assert time.monotonic() < deadline, "a checkpoint that stayed was not measured"
            try:
                waiting.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
    finally:
        waiting.kill()
        waiting.wait()


def _compared(place: Path) -> dict[str, object]:
    """Every reading beside the norm of the same tensor, opened by the library that wrote it."""
    worst, readings = 0.0, 0
    wrong: set[tuple[str, int]] = set()
    measured: set[tuple[str, int]] = set()
    for run, step, part, value in _readings(place):
        hand = place / "hand" / run / f"{step}.json"
        expected = json.loads(hand.read_text()).get(part) if hand.exists() else None
        if expected is None:
            wrong.add((run, step))
            continue
        readings += 1
        measured.add((run, step))
        worst = max(worst, abs(value - expected) / expected if expected else abs(value))
        if not math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12):
            wrong.add((run, step))
    saved = sum(1 for _ in (place / "hand").glob("*/*.json"))
    survivors = _survivors(place)
    return {
        "checkpoints_saved": saved,
        "checkpoints_measured": len(measured),
        "survivors": len(survivors),
        "survivors_measured": len(survivors & measured),
        "readings_compared": readings,
        "checkpoints_wrongly_complete": len(wrong),
        "largest_relative_difference": worst,
    }


def _record(writer: str, python: str, found: dict[str, object]) -> None:
    """Add one writer's figures to those of the others."""
    path = ROOT / "benchmarks" / "results" / "real_writers.json"
    known = json.loads(path.read_text()).get("writers", {}) if path.exists() else {}
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    pinned = {line.partition("==")[0].lower() for line in CONSTRAINTS.read_text().splitlines() if "==" in line}
    lines = [line for line in listed.splitlines() if line.partition("==")[0].lower() in pinned]
    versions = dict(line.split("==") for line in lines if "==" in line)
    record("real_writers", {"versions": versions, "writers": known | {writer: found}})
