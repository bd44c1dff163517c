"""Real trainings with BatchNorm and weight decay, watched to their end: norms and rotations beside theory."""

import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from record import record
from soak.trainings.batch_norm_digits import main as train

from sounding.asking.query import connect, named_in
from sounding.measuring.discovery import load

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3000)]

PLUGINS = {"weight_norm", "weight_change", "effective_learning_rate", "rotational_equilibrium", "training_regime"}
WITHOUT = "".join(f"\n[plugins.{name}]\nenabled = false\n" for name in sorted(set(load().plugins) - PLUGINS))
CONFIG = f"""
[[stores]]
path = "store"
pattern = "{{run}}/step_{{step}}.pt"
logs = ["{{run}}/log.csv"]

[daemon]
scan_seconds = 2.0
idle_seconds = 5.0
{WITHOUT}
"""
SPHERE = ["--momentum", "0", "--sphere", "--updates", "2000", "--every", "40"]
RUNS = {
    "periodic": ["--decay", "0.01", "--updates", "8000", "--every", "40", "--twin"],
    "balance": ["--decay", "0.01", "--batch", "20", "--updates", "3000", "--every", "50", "--dense", "40"],
    "adamw": ["--optimizer", "adamw", "--lr", "0.003", "--decay", "0.5", "--batch", "20", "--wrong", "0.2",
              "--updates", "2500", "--every", "50", "--dense", "40"],
    "muon": ["--optimizer", "muon", "--lr", "0.02", "--decay", "0.25", "--batch", "20", "--wrong", "0.2",
             "--updates", "2500", "--every", "50", "--dense", "40"],
    "elr_0.003": ["--lr", "0.003", *SPHERE],
    "elr_0.05": ["--lr", "0.05", *SPHERE],
    "elr_0.3": ["--lr", "0.3", *SPHERE],
}  # fmt: skip
LAYERS = ("0.weight", "3.weight")
SERIES = {
    "norm": "weight_norm.frobenius",
    "rotation": "weight_change.rotation",
    "expected_rotation": "rotational_equilibrium.expected_rotation",
    "distance": "rotational_equilibrium.distance",
    "equilibrium_norm": "effective_learning_rate.equilibrium_norm",
    "elr": "effective_learning_rate.elr",
}
FLOOR = 2**-7 / math.sqrt(32 * math.log(2)) * math.sqrt(2)  # radians, of a rotation between two bfloat16 checkpoints


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a daemon that watched all runs while they trained."""
    place = tmp_path_factory.mktemp("trainings")
    (place / "sounding.toml").write_text(CONFIG)
    (place / "store").mkdir()
    sounding = [str(Path(sys.executable).parent / "sounding"), "--config", str(place / "sounding.toml"), "watch"]
    daemon = subprocess.Popen([*sounding, "--until-idle", "60"], stdout=subprocess.DEVNULL)
    try:
        for run, arguments in RUNS.items():
            train([str(place / "store"), run, *arguments])
        assert daemon.wait(2000) == 0
    finally:
        daemon.kill()
    return place / ".sounding"


@pytest.fixture(scope="module")
def found(results: Path) -> dict[str, dict[str, Any]]:
    """By run: series of readings of each layer, and what `training_regime` says; kept for the page of that plugin."""
    runs = {run: _told(results, run) for run in [*RUNS, "periodic_bf16"]}
    record("trainings", {"runs": {run: {"arguments": " ".join(RUNS.get(run, []))} | _short(runs[run]) for run in runs}})
    return runs


def _short(told: dict[str, Any]) -> dict[str, Any]:
    """The same with every series in one line of text."""
    series = {
        name: {key: " ".join(f"{value:.4g}" if key == "value" else str(value) for value in each[key]) for key in each}
        for name, each in told["series"].items()
    }
    return {**told, "series": series, "regime": [" ".join(map(str, row)) for row in told["regime"]]}


def _rows(results: Path, text: str) -> list[tuple[Any, ...]]:
    return connect(results, named_in(text)).execute(text).fetchall()


def _told(results: Path, run: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, metric in SERIES.items():
        plugin, _, short = metric.partition(".")
        for layer in LAYERS:
            rows = _rows(
                results,
                f"SELECT step, value, status FROM readings WHERE run = '{run}' AND plugin = '{plugin}' "
                f"AND metric = '{short}' AND part = '{layer}' ORDER BY step",
            )
            told.setdefault("series", {})[f"{name} {layer}"] = {
                "step": [row[0] for row in rows],
                "value": [row[1] for row in rows],
                "unresolved": [row[0] for row in rows if row[2] == "unresolved"],
            }
    rows = _rows(
        results,
        f"""SELECT metric, "index", value, label, status FROM readings WHERE run = '{run}'
        AND plugin = 'training_regime' ORDER BY metric, "index" """,
    )
    told["regime"] = [[row[0], row[1], row[3] if row[2] is None else row[2], row[4]] for row in rows]
    skips = _rows(
        results, f"SELECT reason FROM skips WHERE run = '{run}' AND plugin = 'training_regime' ORDER BY reason"
    )
    told["skips"] = [row[0] for row in skips]
    return told


def _of(told: dict[str, Any], metric: str) -> list[Any]:
    return [row[2] for row in told["regime"] if row[0] == metric]


def _late(told: dict[str, Any], name: str, of: float = 0.5) -> list[float]:
    """The values of a series in the last part of a run, of both layers."""
    both = [told["series"][f"{name} {layer}"] for layer in LAYERS]
    return [value for each in both for value in each["value"][int(len(each["value"]) * (1 - of)) :]]


def test_destabilisations_come_when_decay_alone_would_bring_them(found: dict[str, dict[str, Any]]) -> None:
    told = found["periodic"]
    assert _of(told, "destabilisations")[0] >= 3
    (period,), (predicted,) = _of(told, "period"), _of(told, "predicted_period")
    assert 0.7 * period < predicted < period
    assert all(peak > 1.5 * trough for peak, trough in zip(_of(told, "elr_peak"), _of(told, "elr_trough"), strict=True))


def test_the_twin_in_bfloat16_agrees_where_it_is_resolved(found: dict[str, dict[str, Any]]) -> None:
    for layer in LAYERS:
        exact, coarse = (found[run]["series"][f"rotation {layer}"] for run in ("periodic", "periodic_bf16"))
        assert exact["step"] == coarse["step"]
        assert exact["unresolved"] == []
        for step, one, other in zip(exact["step"], exact["value"], coarse["value"], strict=True):
            assert abs(one - other) <= FLOOR, step
            assert (step in coarse["unresolved"]) == (other < FLOOR), step
    assert _of(found["periodic_bf16"], "destabilisation") == _of(found["periodic"], "destabilisation")


@pytest.mark.parametrize("run", ["balance", "adamw", "muon"])
def test_norms_and_single_updates_are_those_of_the_balance(found: dict[str, dict[str, Any]], run: str) -> None:
    """Over one update the norm's balance alone fixes the angle; over many, what gradients have in common shows."""
    told = found[run]
    single = statistics.median(_late(told, "distance", 0.3))
    assert single == pytest.approx(1.0, abs=0.2)
    norms, predicted = _late(told, "norm", 0.3), _late(told, "equilibrium_norm", 0.3)
    assert statistics.median(norms) == pytest.approx(statistics.median(predicted), rel=0.2)


def test_regimes_of_fixed_effective_learning_rates(found: dict[str, dict[str, Any]]) -> None:
    regimes = {run: _of(told, "regime") for run, told in found.items() if run.startswith("elr_")}
    assert regimes["elr_0.003"] == ["convergence"]
    assert regimes["elr_0.3"] == ["divergence"]
