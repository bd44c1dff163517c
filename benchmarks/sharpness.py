"""Processor time, memory and error of a Hessian's five largest eigenvalues, beside the packages that others would use.

Three networks: a perceptron on digits (100k parameters), a ResNet-20 with BatchNorm on digits (270k), a GPT (3.2M).
Each program runs alone, with one thread, right before or after ours, and what counts is the ratio of such a pair.
Errors are against the same Hessian in float64. PyHessian's three calls stand against eigenvalues, trace and density.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from peers.curvature_subjects import NAMES, make
from peers.environments import python_with, run
from record import record

HERE = Path(__file__).parent / "peers"
PEERS = ("torch==2.13.0", "curvlinops-for-pytorch==3.0.1", "hessian-eigenthings==1.0.0a5", "pyhessian==0.1",
         "scipy==1.17.1", "numpy==2.4.6", "scikit-learn")  # fmt: skip
GOALS = {"curvlinops as documented": 2.5, "curvlinops well tuned": 1.8, "hessian-eigenthings": 1.3, "pyhessian": 3.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--subjects", nargs="*", default=NAMES)
    options = parser.parse_args()
    peer, kept = python_with(*PEERS), {}
    print(
        f"{'network':<10}{'program':<26}{'CPU s':>8}{'ours':>8}{'ratio':>7}{'MiB':>7}{'ours':>7}{'error':>9}{'ours':>9}"
    )
    with tempfile.TemporaryDirectory() as directory:
        for name in options.subjects:
            path = Path(directory) / f"{name}.pt"
            make(name, path)
            kept[name] = compared(peer, str(path), name, options.pairs)
            if options.keep:  # what was measured is kept, should the rest be cut off
                keep(kept, options.pairs)
    for program, mean in means_of(kept).items():
        print(f"{program:<26} geometric mean {mean:.2f}, goal {GOALS[program]}")


def keep(kept: dict[str, dict[str, dict[str, float]]], pairs: int) -> None:
    found = {"peers": PEERS[1:4], "threads": 1, "pairs": pairs, "goals": GOALS, "geometric_means": means_of(kept)}
    record("sharpness", {**found, "networks": kept})


def means_of(kept: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    return {program: geometric_mean([rows[program]["ratio"] for rows in kept.values()]) for program in GOALS}


def compared(peer: str, path: str, name: str, pairs: int) -> dict[str, dict[str, float]]:
    """For each program the median ratio over pairs, peaks, and the largest relative error of the five."""
    truth = told(peer, "sharpness_peers.py", path, "truth", name)
    largest = told(sys.executable, "sharpness_run.py", path, "largest")
    found: dict[str, dict[str, float]] = {
        "truth": truth,
        "largest alone": {key: largest[key] for key in ("products", "cpu_s", "peak_mib")}
        | {"error": error_of(largest["top"], truth["top"])},
    }
    for program in GOALS:
        mode = "all" if program == "pyhessian" else "top"
        rows = []
        for place in range(pairs):
            both = [("ours", sys.executable, "sharpness_run.py", (mode,)),
                    ("theirs", peer, "sharpness_peers.py", (program, str(steps(found))))]  # fmt: skip
            rows.append(
                {who: told(python, script, path, *rest) for who, python, script, rest in both[:: 1 - 2 * (place % 2)]}
            )
        found[program] = row(rows, truth)
        show(name, program, found[program])
    return found


def steps(found: dict[str, dict[str, float]]) -> int:
    """As many Lanczos steps as ours took: who knows that number beforehand needs no test of convergence."""
    return int(next((each["our_products"] for each in found.values() if "our_products" in each), 30))


def row(rows: list[dict[str, dict[str, object]]], truth: dict[str, object]) -> dict[str, float]:
    ours, theirs = rows[-1]["ours"], rows[-1]["theirs"]
    kept = {
        "cpu_s": statistics.median(each["theirs"]["cpu_s"] for each in rows),
        "our_cpu_s": statistics.median(each["ours"]["cpu_s"] for each in rows),
        "ratio": statistics.median(each["theirs"]["cpu_s"] / each["ours"]["cpu_s"] for each in rows),
        "peak_mib": theirs["peak_mib"],
        "our_peak_mib": ours["peak_mib"],
        "error": error_of(theirs["top"], truth["top"]),
        "our_error": error_of(ours["top"], truth["top"]),
        "our_products": ours["products"],
    }
    if "trace" in theirs:
        kept |= {"trace": theirs["trace"], "our_trace": ours["trace"], "our_trace_error": ours["trace_error"],
                 "our_all_products": ours["all_products"]}  # fmt: skip
    return kept


def error_of(values: list[float], truth: list[float]) -> float:
    return max(abs(value / true - 1) for value, true in zip(values, truth, strict=False))


def told(python: str, script: str, *arguments: str) -> dict[str, object]:
    return json.loads(run(python, HERE / script, arguments).splitlines()[-1])


def show(name: str, program: str, kept: dict[str, float]) -> None:
    print(
        f"{name:<10}{program:<26}{kept['cpu_s']:>8.2f}{kept['our_cpu_s']:>8.2f}{kept['ratio']:>7.2f}"
        f"{kept['peak_mib']:>7.0f}{kept['our_peak_mib']:>7.0f}{kept['error']:>9.1e}{kept['our_error']:>9.1e}",
        flush=True,
    )


def geometric_mean(ratios: list[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


if __name__ == "__main__":
    main()
