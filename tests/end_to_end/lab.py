"""A directory with a configuration, a recipe and checkpoints of a real job, and ways to ask what was measured."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from end_to_end import train

from sounding.asking.query import connect, named_in
from sounding.measuring.discovery import load

HERE = Path(__file__).parent
# They stand for all: over weights, over pairs, over data and over gradients. With every bundled one, whatever becomes
# of one is a matter of all these tests, and their time grows with each.
PLUGINS = {"weight_norm", "weight_change", "loss", "gradient_norm"}
ITERATED = {"spectral", "stable_rank"}  # metrics right to their residual, 1e-4 squared, wherever they start
WITHOUT = "".join(f"\n[plugins.{name}]\nenabled = false\n" for name in sorted(set(load().plugins) - PLUGINS))
CONFIG = f"""
[[stores]]
path = "runs"
pattern = "{{run}}/ckpt_{{step}}.pt"
recipe = "recipe.py"
attributes = ["{{run}}/config.json"]
{WITHOUT}
[daemon]
scan_seconds = 0.5
retry_seconds = 0.0
nice = 0
threads = 1
"""


@dataclass(frozen=True)
class Lab:
    """One small lab on disk."""

    path: Path

    @classmethod
    def at(cls, path: Path, config: str = CONFIG) -> "Lab":
        path.mkdir(parents=True, exist_ok=True)
        (path / "runs").mkdir(exist_ok=True)
        (path / "sounding.toml").write_text(config)
        for name in ("recipe.py", "train.py"):
            (path / name).write_text((HERE / name).read_text())
        return cls(path)

    @property
    def config(self) -> Path:
        return self.path / "sounding.toml"

    @property
    def results(self) -> Path:
        return self.path / ".sounding"

    def train(self, run: str, steps: int = 60, every: int = 20, lr: float = 0.01, pause: float = 0.0):
        """Start the real training process."""
        arguments = [str(self.path / "runs"), run, str(steps), str(every), str(lr), str(pause)]
        return subprocess.Popen([sys.executable, str(self.path / "train.py"), *arguments])

    def train_here(self, run: str, steps: int, every: int, lr: float = 0.01) -> None:
        """The same training in this process, for whoever needs its checkpoints only."""
        train.main(str(self.path / "runs"), run, steps, every, lr)

    def daemon(self, *arguments: str):
        """Start a daemon through the command line."""
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "sounding"), "--config", str(self.config), "watch", *arguments],
            stdout=subprocess.DEVNULL,
        )

    def sql(self, text: str) -> list[tuple[object, ...]]:
        return connect(self.results, named_in(text)).execute(text).fetchall()

    def values(self) -> dict[tuple[object, ...], object]:
        """Every current reading by its full key; checkpoint identities included."""
        rows = self.sql(
            'SELECT run, step, checkpoint_id, other_step, plugin, metric, part, split, "index", value, label '
            "FROM readings"
        )
        found = {row[:-2]: row[-2:] for row in rows}
        assert len(found) == len(rows), "a reading was recorded twice"
        return found

    def settled(self) -> dict[tuple[object, ...], int]:
        """How often each piece of work was settled, over all files ever published."""
        rows = self.sql(
            "SELECT plugin, version, options_hash, basis, checkpoint_id, other_checkpoint_id, count(*) "
            "FROM outcomes_all WHERE status IN ('ok', 'skipped') GROUP BY ALL"
        )
        return {row[:-1]: int(str(row[-1])) for row in rows}


def assert_equal(found: dict[tuple[object, ...], Any], expected: dict[tuple[object, ...], Any]) -> None:
    """Digit by digit, but for what an iteration found that started from what its worker remembered."""
    iterated = {key for key in expected if not ITERATED.isdisjoint(map(str, key))}
    assert iterated
    assert {key: found[key] for key in found.keys() - iterated} == {
        key: expected[key] for key in expected.keys() - iterated
    }
    for key in iterated:
        (value, label), (expected_value, expected_label) = found[key], expected[key]
        assert (value, label) == (pytest.approx(expected_value, rel=1e-6), expected_label), key
