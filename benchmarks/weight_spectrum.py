"""Processor time, memory and agreement of full spectra, beside WeightWatcher's with its default settings.

Three sets of weights: those of a GPT of 10M parameters, of a ResNet-18 and of GPT-2 (124M, without the vocabulary,
which WeightWatcher leaves out), with heavy-tailed spectra. Each program runs alone, one thread, one after the other.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from peers.environments import python_with, run
from record import record

HERE = Path(__file__).parent / "peers"
PEER = ("torch==2.13.0", "weightwatcher==0.7.7")
PAIRS = {"gpt10m": 3, "resnet18": 3, "gpt2": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    options = parser.parse_args()
    peer = python_with(*PEER)
    kept = {}
    titles = ("weights", "mode", "peer CPU s", "ours", "ratio", "peer MiB", "ours", "alpha differs")
    print("{:<10}{:<8}{:>11}{:>8}{:>7}{:>10}{:>7}{:>15}".format(*titles))
    with tempfile.TemporaryDirectory() as directory:
        for name, pairs in PAIRS.items():
            path = Path(directory) / f"{name}.pt"
            torch.save(dict(weights_of(name)), path)
            kept[name] = compared(peer, path, pairs)
            for mode, row in kept[name].items():
                print(
                    f"{name:<10}{mode:<8}{row['peer_cpu_s']:>11.2f}{row['cpu_s']:>8.2f}{row['ratio']:>7.2f}"
                    f"{row['peer_peak_mib']:>10.0f}{row['peak_mib']:>7.0f}{row['alpha_differs']:>15.1e}"
                )
    if options.keep:
        record("weight_spectrum", {"peer": PEER[1], "threads": 1, "weights": kept})


def compared(peer: str, path: Path, pairs: int) -> dict[str, dict[str, float]]:
    """The median of ratios taken in pairs; the peer stands before every run of ours."""
    found: dict[str, dict[str, float]] = {}
    for mode in ("double", "single"):
        rows = []
        for _ in range(pairs):
            theirs = json.loads(run(peer, HERE / "weightwatcher_run.py", [str(path)]).splitlines()[-1])
            ours = json.loads(run(sys.executable, HERE / "spectrum_run.py", [str(path), mode]))
            rows.append((theirs, ours, theirs["cpu_s"] / ours["cpu_s"]))
        theirs, ours, _ = rows[-1]
        shared = theirs["alpha"].keys() & ours["alpha"].keys()
        assert len(shared) == len(theirs["alpha"]), "the peer measured a layer that we did not"
        found[mode] = {
            "peer_cpu_s": statistics.median(row[0]["cpu_s"] for row in rows),
            "cpu_s": statistics.median(row[1]["cpu_s"] for row in rows),
            "ratio": statistics.median(row[2] for row in rows),
            "peer_peak_mib": theirs["peak_mib"],
            "peak_mib": ours["peak_mib"],
            "alpha_differs": max(abs(ours["alpha"][part] / theirs["alpha"][part] - 1) for part in shared),
        }
    return found


def weights_of(name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights whose columns have scales of a heavy-tailed law, so that spectra have tails to fit."""
    generator = torch.Generator().manual_seed(0)
    for place, shape in enumerate({"gpt10m": gpt(6, 384), "resnet18": resnet18(), "gpt2": gpt(12, 768)}[name]):
        columns = int(torch.tensor(shape[1:]).prod())
        scale = torch.rand(columns, generator=generator).clamp_min(1e-3) ** -0.4
        yield f"layer{place}", (torch.randn(shape[0], columns, generator=generator) * scale * 0.05).reshape(shape)


def gpt(layers: int, width: int) -> list[tuple[int, ...]]:
    block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    return [*block * layers, (1024, width)]


def resnet18() -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), *[(64, 64, 3, 3)] * 4]
    for width in (128, 256, 512):
        shapes += [(width, width // 2, 3, 3), (width, width // 2, 1, 1), *[(width, width, 3, 3)] * 3]
    return [*shapes, (1000, 512)]


if __name__ == "__main__":
    main()
