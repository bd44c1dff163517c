"""Draw the edge of stability, from benchmarks/results/edge_of_stability.json, into docs/plots.

python benchmarks/plot_edge_of_stability.py
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from peers.environments import python_with

HERE = Path(__file__).parent
PLOTS = HERE.parent / "docs" / "plots"
LIBRARY = "matplotlib==3.10.7"  # in an environment of its own: only this script draws


def main() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        subprocess.run([python_with(LIBRARY), __file__], check=True)
        return
    import matplotlib
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.hashsalt": "sounding", "svg.fonttype": "none"}
    runs = json.loads((HERE / "results" / "edge_of_stability.json").read_text())["runs"]
    figure, (curvatures, losses) = pyplot.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    for place, (rate, run) in enumerate(runs.items()):
        color = f"C{place}"
        curvatures.plot(run["step"], run["lambda_max"], color=color, lw=1, label=f"lambda_max, η = {rate}")
        curvatures.axhline(2 / float(rate), color=color, ls="--", lw=0.8, label=f"2/η = {2 / float(rate):g}")
        losses.plot(run["step"], run["loss"], color=color, lw=1)
    curvatures.set_ylabel("largest eigenvalue of the Hessian")
    curvatures.legend(fontsize=7, ncols=3)
    losses.set_yscale("log")
    losses.set_ylabel("loss")
    losses.set_xlabel("update of full-batch gradient descent")
    PLOTS.mkdir(exist_ok=True)
    figure.savefig(PLOTS / "edge_of_stability.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
