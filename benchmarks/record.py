"""Keeping what a benchmark or a long test found, with the revision and the class of machine it ran on."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def record(name: str, found: Mapping[str, object]) -> None:
    """Write `benchmarks/results/NAME.json`."""
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    kept = {
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "revision": revision.stdout.strip(),
        "machine": machine,
        "load": round(os.getloadavg()[0], 1),
        **found,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
