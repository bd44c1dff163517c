"""The import contracts speak of every module, and a process that only reads or directs never loads torch."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACTS = {
    contract["name"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
}
WORKER_SIDE_MODULES = {
    "batch", "calling", "curvature", "digest", "fourier", "geometry", "logit_bounds", "losses", "measuring", "numbers",
    "opening", "passes", "probe", "recipe", "seeds", "sketch", "spectra", "testing", "trial",
}  # fmt: skip
PUBLIC_MODULES = {
    "contract", "curvature", "errors", "estimates", "extrapolation", "fitting", "fourier", "geometry", "kernels",
    "logit_bounds", "numbers", "passes", "periods", "records", "sketch", "spectra", "tap",
}  # fmt: skip
PARENTS = (
    "sounding",
    "sounding.running.service",
    "sounding.asking.check",
    "sounding.asking.analyse",
    "sounding.asking.why",
    "sounding.running.catalogue",
    "sounding.running.worker",
    "sounding.asking.propose",
    "sounding_cli.app",
    "sounding_cli.demo",
    "sounding_cli.watching",
)


def modules() -> set[str]:
    core = ROOT / "daemon" / "sounding"
    found = {path.stem for path in core.glob("*.py")} | {path.parent.name for path in core.glob("*/__init__.py")}
    return found - {"__init__"}


def test_every_module_is_of_the_workers_side_or_forbidden_to_import_torch() -> None:
    listed = CONTRACTS["Only the worker's side imports torch"]["source_modules"]
    torch_free = {name.removeprefix("sounding.") for name in listed if name.startswith("sounding.")}
    assert torch_free == modules() - WORKER_SIDE_MODULES
    assert modules() >= WORKER_SIDE_MODULES


def test_every_module_is_public_or_hidden_from_plugins() -> None:
    listed = CONTRACTS["A plugin sees the author's API and nothing else of the core"]["forbidden_modules"]
    assert {name.removeprefix("sounding.") for name in listed} == modules() - PUBLIC_MODULES


def test_directing_and_reading_never_load_torch() -> None:
    code = f"""
import importlib, sys
for module in {PARENTS}:
    importlib.import_module(module)
    assert "torch" not in sys.modules, module
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
