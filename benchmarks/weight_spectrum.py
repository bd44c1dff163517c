"""Processor time, memory and agreement of full spectra, beside WeightWatcher's with its default settings.

Five sets of weights: those of a GPT of 10M parameters, of a ResNet-18 and of GPT-2 (124M), random with heavy-tailed
spectra, and those of two small networks that are trained here. Each program runs alone, one thread, one after the
other; WeightWatcher leaves GPT-2's vocabulary out, we do not.

Memory is that of processes of their own: the peak of all that was resident, mapped pages of files included; of that
what is a process's own (`RssAnon`); and of that what it has beyond an interpreter that has imported torch, which
takes as much on either side, and which a daemon's workers share.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peers.environments import python_with, watched
from record import RESULTS, record
from trained import trained

HERE = Path(__file__).parent / "peers"
PEER = ("torch==2.13.0", "weightwatcher==0.7.7")
PAIRS = {"gpt10m": 3, "resnet18": 3, "gpt2": 1}
TRAINED = {"char_gpt": 1, "digits_resnet": 1}
MODES = ("double", "single")
KINDS = ("resident", "own", "beyond_torch")  # of memory
IMPORT = ("-c", "import torch, time; time.sleep(0.1)")
TITLES = ("weights", "mode", "peer CPU s", "ours", "ratio", "alpha differs")


@dataclass(frozen=True)
class Measured:
    """What one program made of a file: seconds, MiB, exponents by layer."""

    cpu_s: float
    memory: tuple[float, ...]  # as KINDS
    alpha: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these weights; others keep the figures they have")
    parser.add_argument("--pairs", type=int, help="pairs of each; else one to three")
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peer = python_with(*PEER)
    alone = {python: watched(python, IMPORT)[2] for python in (peer, sys.executable)}
    print("{:<15}{:<8}{:>11}{:>8}{:>7}{:>14}   memory, of the peer's".format(*TITLES))
    for name, pairs in (PAIRS | TRAINED).items():
        if options.names and name not in options.names:
            continue
        with tempfile.TemporaryDirectory() as directory:
            path = trained(name) if name in TRAINED else Path(directory) / f"{name}.pt"
            if name not in TRAINED:
                torch.save(dict(weights_of(name)), path)
            rows = compared(peer, path, options.pairs or pairs, alone)
        for mode, row in rows.items():
            figures = f"{row['peer_cpu_s']:>11.2f}{row['cpu_s']:>8.2f}{row['ratio']:>7.2f}{row['alpha_differs']:>14.1e}"
            shares = ", ".join(f"{kind} {row[f'{kind}_share']:.2f}" for kind in KINDS)
            print(f"{name:<15}{mode:<8}{figures}   {shares}", flush=True)
        if options.keep:
            own = {"peer": round(alone[peer]), "ours": round(alone[sys.executable])}
            known = json.loads((RESULTS / "weight_spectrum.json").read_text())["weights"]
            kept = {each: rows if each == name else known[each] for each in PAIRS | TRAINED if each in {name, *known}}
            record("weight_spectrum", {"peer": PEER[1], "threads": 1, "own_of_torch_mib": own, "weights": kept})


def compared(peer: str, path: Path, pairs: int, alone: dict[str, float]) -> dict[str, dict[str, float]]:
    """The medians of what was measured in turn: the peer, then ours in either mode; memory is the last round's."""
    rounds: list[dict[str, Measured]] = []
    for _ in range(pairs):
        found = {"peer": measured(peer, "weightwatcher_run.py", [str(path)], alone[peer])}
        for mode in MODES:
            found[mode] = measured(sys.executable, "spectrum_run.py", [str(path), mode], alone[sys.executable])
        rounds.append(found)
    return {mode: row(rounds, mode) for mode in MODES}


def measured(python: str, script: str, arguments: list[str], alone: float) -> Measured:
    text, resident, own = watched(python, [str(HERE / script), *arguments])
    found = json.loads(text.splitlines()[-1])
    return Measured(found["cpu_s"], (resident, own, own - alone), found["alpha"])


def row(rounds: list[dict[str, Measured]], mode: str) -> dict[str, float]:
    theirs, ours = rounds[-1]["peer"], rounds[-1][mode]
    fitted = {part: alpha for part, alpha in theirs.alpha.items() if math.isfinite(alpha) and alpha > 0}
    assert fitted.keys() <= ours.alpha.keys(), "the peer fitted a layer that we did not"
    found: dict[str, float] = {
        "pairs": len(rounds),
        "peer_cpu_s": statistics.median(each["peer"].cpu_s for each in rounds),
        "cpu_s": statistics.median(each[mode].cpu_s for each in rounds),
        "ratio": statistics.median(each["peer"].cpu_s / each[mode].cpu_s for each in rounds),
        "layers": len(fitted),
        "alpha_differs": max(abs(ours.alpha[part] / alpha - 1) for part, alpha in fitted.items()),
    }
    for kind, before, now in zip(KINDS, theirs.memory, ours.memory, strict=True):
        found |= {f"peer_{kind}_mib": round(before), f"{kind}_mib": round(now), f"{kind}_share": round(now / before, 3)}
    return found


def weights_of(name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights whose columns have scales of a heavy-tailed law, so that spectra have tails to fit."""
    generator = torch.Generator().manual_seed(0)
    for place, shape in enumerate(
        {"gpt10m": gpt(6, 384), "resnet18": resnet18(), "gpt2": [(50257, 768), *gpt(12, 768)]}[name]
    ):
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
