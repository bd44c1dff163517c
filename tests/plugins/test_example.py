"""The plugin to copy: found once installed, and its own tests pass."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sounding.measuring.collecting import collect
from sounding.measuring.collecting import installed as sources
from sounding.measuring.describing import describe_loaded
from sounding.measuring.discovery import assemble

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which the example is installed: its folder on the path, with the metadata pip would write."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = tmp_path / "sounding_kurtosis-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["sounding.plugins"]
    lines = [f"{name} = {target}" for name, target in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[sounding.plugins]", *lines, ""]))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(EXAMPLE)]), "OMP_NUM_THREADS": "1"}


def test_it_is_discovered_beside_the_bundled_plugins(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for place in reversed(installed["PYTHONPATH"].split(os.pathsep)):
        monkeypatch.syspath_prepend(place)
    found = describe_loaded(assemble(*collect(sources())), {"kurtosis": {"smallest": 256}}, {})
    assert found.refusals == ()
    assert "weight_norm" in found.plugins
    assert found.plugins["kurtosis"].origin == "sounding-kurtosis: sounding_kurtosis.kurtosis"
    assert found.plugins["kurtosis"].options[0].value == 256


def test_its_own_tests_pass(installed: dict[str, str]):
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    command += ["--rootdir", str(EXAMPLE), "-c", os.devnull, str(EXAMPLE / "tests")]
    result = subprocess.run(command, env=installed, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout
    assert "4 passed" in result.stdout
