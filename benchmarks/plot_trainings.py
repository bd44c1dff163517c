"""Draw what the long trainings showed, from benchmarks/results/trainings.json, into docs/plots.

python benchmarks/plot_trainings.py
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from peers.environments import python_with

HERE = Path(__file__).parent
PLOTS = HERE.parent / "docs" / "plots"
LIBRARY = "matplotlib==3.10.7"  # in an environment of its own: only this script draws
LAYERS = {"0.weight": "C0", "3.weight": "C1"}


def told(run: dict[str, Any], metric: str) -> list[Any]:
    rows = [row.split() for row in run["regime"]]
    return [float(row[2]) for row in rows if row[0] == metric]


def line(axes: Any, run: dict[str, Any], name: str, layer: str, **style: Any) -> None:
    series = run["series"][f"{name} {layer}"]
    steps, values = ([float(each) for each in series[key].split()] for key in ("step", "value"))
    axes.plot(steps, values, **{"color": LAYERS[layer], "lw": 1, **style})


def periodic(runs: dict[str, Any], pyplot: Any) -> None:
    run, twin = runs["periodic"], runs["periodic_bf16"]
    figure, (norms, rates, turns) = pyplot.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for layer in LAYERS:
        line(norms, run, "norm", layer, label=layer)
        line(norms, run, "equilibrium_norm", layer, ls=":", label=f"{layer}, equilibrium_norm")
        line(rates, run, "elr", layer, label=layer)
        line(turns, run, "rotation", layer, label=layer)
        line(turns, twin, "rotation", layer, ls="", marker=".", ms=2, label=f"{layer}, saved in bfloat16")
    line(turns, run, "expected_rotation", "0.weight", color="k", ls="--", label="expected_rotation")
    for axes in (norms, rates, turns):
        axes.set_yscale("log")
        for begin in told(run, "destabilisation"):
            axes.axvline(begin, color="0.6", lw=0.6)
    norms.set_ylabel("norm")
    rates.set_ylabel("effective learning rate")
    turns.set_ylabel("rotation over 40 updates, rad")
    turns.axhline(0.00235, color="0.5", ls=":", lw=1, label="floor of bfloat16")
    turns.set_xlabel("update (grey: destabilisations)")
    for axes in (norms, rates, turns):
        axes.legend(fontsize=6, loc="upper right")
    figure.savefig(PLOTS / "training_regime_periodic.svg")


def balance(runs: dict[str, Any], pyplot: Any) -> None:
    figure, columns = pyplot.subplots(2, 3, figsize=(9, 5), layout="constrained")
    for (norms, turns), name in zip(columns.T, ("balance", "adamw", "muon"), strict=True):
        for layer in LAYERS:
            line(norms, runs[name], "norm", layer, label=layer)
            line(norms, runs[name], "equilibrium_norm", layer, ls=":", label=f"{layer}, equilibrium_norm")
            line(turns, runs[name], "rotation", layer, label=layer)
        line(turns, runs[name], "expected_rotation", "3.weight", color="k", ls="--", label="expected_rotation")
        turns.set_yscale("log")
        norms.set_title({"balance": "SGD"}.get(name, name))
        turns.set_xlabel("update")
    columns[0, 0].set_ylabel("norm")
    columns[1, 0].set_ylabel("rotation between checkpoints, rad")
    for axes in columns[:, 0]:
        axes.legend(fontsize=6)
    figure.savefig(PLOTS / "training_regime_balance.svg")


def main() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        subprocess.run([python_with(LIBRARY), __file__], check=True)
        return
    import matplotlib
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.hashsalt": "sounding", "svg.fonttype": "none", "path.simplify_threshold": 1.0}
    runs = json.loads((HERE / "results" / "trainings.json").read_text())["runs"]
    PLOTS.mkdir(exist_ok=True)
    periodic(runs, pyplot)
    balance(runs, pyplot)
    pyplot.close("all")


if __name__ == "__main__":
    sys.exit(main())
