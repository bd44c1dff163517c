"""Every library's own trainer writes, a daemon watches, and every reading is what the library reads itself."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from record import record
from soak.by_the_daemon import compared, readings, survivors

ROOT = Path(__file__).parents[2]
WRITERS = Path(__file__).parent / "writers"
CONSTRAINTS = ROOT / "benchmarks" / "soak-constraints.txt"
PACKAGES = [
    "torch",
    "transformers",
    "accelerate",
    "lightning",
    "peft",
    "hydra-core",
    "omegaconf",
    "setuptools",
    "wheel",
]
SETTINGS = {
    "hugging_face": 'pattern = "{run}/checkpoint-{step}"',
    "accelerate_states": """pattern = "{run}/checkpoints/checkpoint_{step}"
[stores.models]
main = "model"
critic = "model_1"
""",
    "lightning_fit": 'pattern = "{run}/*.ckpt"',
    "deepspeed_zero": 'pattern = "{run}/global_step{step}"',
    "plain_torch": 'pattern = ["{run}/step_{step}.pt", "{run}/step_{step}.safetensors", "{run}/ckpt.pt"]',
    "averaged_by_hydra": """pattern = "{run}/step_{step}.pt"
attributes = ["{run}/.hydra/config.yaml", "checkpoint:cfg"]
[stores.models]
raw = "model"
averaged = "ema"
""",
    "distributed_shards": 'pattern = ["{run}/step_{step}", "{run}/live"]',
}
CONFIG = """
[daemon]
scan_seconds = 0.2
nice = 0

[[stores]]
path = "store"
quiet_seconds = 1.0
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


@pytest.mark.parametrize("writer", [name for name in SETTINGS if name != "deepspeed_zero"])
def test_readings_equal_what_the_library_reads(writer: str, python: str, tmp_path: Path) -> None:
    _watched(writer, python, tmp_path)


def test_readings_equal_what_deepspeed_reads(with_deepspeed: str, tmp_path: Path) -> None:
    _watched("deepspeed_zero", with_deepspeed, tmp_path)


def _watched(writer: str, python: str, place: Path) -> None:
    (place / "store").mkdir()
    (place / "sounding.toml").write_text(CONFIG + SETTINGS[writer])
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
    found = compared(place)
    assert found["checkpoints_wrongly_complete"] == 0
    assert found["survivors_measured"] == found["survivors"] != 0
    assert isinstance(found["largest_relative_difference"], float)
    assert found["largest_relative_difference"] < 1e-12
    assert (found["facts_wrong"], found["attributes_wrong"]) == ([], [])
    assert found["steps_with_two_checkpoints"] == 0
    _record(writer, python, found)


def _wait_for_survivors(place: Path) -> None:
    deadline = time.monotonic() + 120
    waiting = subprocess.Popen(["sleep", "120"])
    try:
        while not survivors(place) <= set(readings(place)):
            assert time.monotonic() < deadline, "a checkpoint that stayed was not measured"
            try:
                waiting.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
    finally:
        waiting.kill()
        waiting.wait()


def _record(writer: str, python: str, found: dict[str, object]) -> None:
    """Add one writer's figures to those of the others."""
    path = ROOT / "benchmarks" / "results" / "real_writers.json"
    known = json.loads(path.read_text()).get("writers", {}) if path.exists() else {}
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    pinned = {line.partition("==")[0].lower() for line in CONSTRAINTS.read_text().splitlines() if "==" in line}
    lines = [line for line in listed.splitlines() if line.partition("==")[0].lower() in pinned]
    versions = dict(line.split("==") for line in lines if "==" in line)
    record("real_writers", {"versions": versions, "writers": known | {writer: found}})
