"""Bandwidth of reading weights, in pairs in one run: plainly reading files against measuring them, one thread.

Run with `python benchmarks/weights.py`. Two safetensors checkpoints of the shapes of a 124M-parameter GPT-2 are written
once and kept under the system's temporary directory. Each round reads both files into a buffer, then measures them, in
turn; what is told is the median over the rounds of the ratio of the two, by CPU time and by the clock, with the files
in the page cache (warm) and dropped from it before each reading (cold).

The last figures are of the same weights saved by torch alone and beside Adam's two moments, twice their size: what the
norms take of either, in CPU time, in pages mapped and in bytes read from the disk.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from record import record
from safetensors.torch import save_file

from sounding.opening import open_checkpoint
from sounding.passes import Other
from sounding.passes.magnitudes import magnitudes
from sounding.passes.pair import pair
from sounding.passes.spectral import largest_singular_value
from sounding.passes.weights import weights

Measure: TypeAlias = Callable[[list[Path]], None]

WIDTH, LAYERS, VOCABULARY, CONTEXT = 768, 12, 50257, 1024
BUFFER = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at", type=Path, default=Path(tempfile.gettempdir()) / "sounding-weights")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = [made(arguments.at, number) for number in (0, 1)]
    bytes_read = sum(each.stat().st_size for each in files)
    found: dict[str, object] = {"files": f"2 x {bytes_read / 2e6:.0f} MB, float32", "rounds": arguments.rounds}
    for state, prepare in (("warm", warmed), ("cold", dropped)):
        for name, measure, sources in (
            ("pair", pair_of, files),
            ("norms", magnitudes_of, files[:1]),
            ("norms and extremes", extremes_of, files[:1]),
        ):
            figures = compared(plainly_read, sources, measure, sources, prepare, arguments.rounds)
            found[f"{name}, {state}"] = figures
            print(f"{name:18} {state}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    found["a state beside the weights"] = beside = state_unasked(arguments.at, arguments.rounds)
    print("a state beside the weights:", beside)
    found["spectral norm of 3072 x 768, ms"] = spectral()
    print("spectral norm of 3072 x 768, ms:", found["spectral norm of 3072 x 768, ms"])
    if arguments.keep:
        record("weights", found)


def compared(
    read: Measure, plain: list[Path], measure: Measure, files: list[Path], prepare: Measure, rounds: int,
) -> dict[str, float]:  # fmt: skip
    """Ratios of reading (plainly, or what else) to measuring, and the bandwidths, medians over the rounds."""
    rows = []
    for _ in range(rounds):
        prepare([*plain, *files])
        one = timed(lambda: read(plain))
        prepare([*plain, *files])
        other = timed(lambda: measure(files))
        rows.append((*one, *other))
    size = sum(each.stat().st_size for each in plain) / 1e9
    middle = statistics.median
    return {
        "ratio by CPU": round(middle(row[0] / row[2] for row in rows), 2),
        "ratio by clock": round(middle(row[1] / row[3] for row in rows), 2),
        "plain GB/s": round(size / middle(row[1] for row in rows), 2),
        "measured GB/s": round(size / middle(row[3] for row in rows), 2),
    }


def timed(work: Callable[[], None]) -> tuple[float, float]:
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def plainly_read(files: list[Path]) -> None:
    view = memoryview(bytearray(BUFFER))
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(view):
                pass


def pair_of(files: list[Path]) -> None:
    """Norms of both, ratios and rotations."""
    with open_checkpoint(str(files[0])) as before, open_checkpoint(str(files[1])) as after:
        found = pair(weights(after, ""), Other({"weights": weights(before, "")}))
        for each in (*found.moments.values(), found.total):
            _ = each.angle, each.norm_change


def magnitudes_of(files: list[Path]) -> None:
    for file in files:
        with open_checkpoint(str(file)) as opened:
            _ = magnitudes(weights(opened, "")).norm


def extremes_of(files: list[Path]) -> None:
    """And least and greatest values, and counts of zeros and of what is no number, from the same reading."""
    for file in files:
        with open_checkpoint(str(file)) as opened:
            found = magnitudes(weights(opened, ""))
            for each in found.values():
                _ = each.low, each.zeros
            _ = found.norm
            del each, found  # they read when asked, so they hold the file


def state_unasked(directory: Path, rounds: int) -> dict[str, object]:
    """What the norms take of a file without a state, and of one with it."""
    alone, beside = saved(directory, with_state=False), saved(directory, with_state=True)
    times = compared(magnitudes_of, [alone], magnitudes_of, [beside], warmed, rounds)
    found: dict[str, object] = {"CPU, alone over beside": times["ratio by CPU"]}
    for name, path in (("alone", alone), ("beside", beside)):
        dropped([path])
        before = disk_bytes()
        with open_checkpoint(str(path)) as opened:
            _ = magnitudes(weights(opened, "")).norm
            mapped = mapped_bytes(path)
        read = disk_bytes() - before
        found[name] = {
            "file MB": round(path.stat().st_size / 1e6), "mapped MB": round(mapped / 1e6), "read MB": round(read / 1e6)
        }  # fmt: skip
    return found


def disk_bytes() -> int:
    """What this process had read from disks so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def mapped_bytes(path: Path) -> int:
    """Resident bytes of this process's mappings of a file."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1]) << 10
    return found


def spectral() -> dict[str, float]:
    """Of a random matrix (the hardest, for lack of a gap) from a fixed vector, and from that of one a little apart."""
    torch.manual_seed(0)
    matrix = torch.randn(4 * WIDTH, WIDTH)
    cold, warm = [], []
    for _ in range(5):
        started = time.process_time()
        top = largest_singular_value(matrix)
        cold.append(time.process_time() - started)
        moved = matrix + 0.01 * torch.randn_like(matrix)
        started = time.process_time()
        largest_singular_value(moved, top.vector)
        warm.append(time.process_time() - started)
    return {
        "fixed start": round(1e3 * statistics.median(cold), 1),
        "warm start": round(1e3 * statistics.median(warm), 1),
    }


def warmed(files: list[Path]) -> None:
    plainly_read(files)


def dropped(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def made(directory: Path, number: int) -> Path:
    path = directory / f"{number}.safetensors"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        save_file(state(number), path)
    return path


def saved(directory: Path, *, with_state: bool) -> Path:
    """The weights of the first checkpoint as torch saves them, with Adam's two moments beside them or without."""
    path = directory / ("with_optimizer.pt" if with_state else "without_optimizer.pt")
    if not path.exists() and not with_state:
        torch.save({"model": state(0)}, path)
    elif not path.exists():
        tensors = state(0)
        moments = {
            index: {"step": 1.0, "exp_avg": torch.zeros_like(each), "exp_avg_sq": torch.zeros_like(each)}
            for index, each in enumerate(tensors.values())
        }
        group = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "params": list(moments)}
        torch.save({"model": tensors, "optimizer": {"state": moments, "param_groups": [group]}}, path)
    return path


def state(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    shapes = {"wte.weight": (VOCABULARY, WIDTH), "wpe.weight": (CONTEXT, WIDTH)}
    for layer in range(LAYERS):
        for name, rows in (("attn.c_attn", 3), ("attn.c_proj", 1), ("mlp.c_fc", 4)):
            shapes[f"h.{layer}.{name}.weight"] = (rows * WIDTH, WIDTH)
        shapes[f"h.{layer}.mlp.c_proj.weight"] = (WIDTH, 4 * WIDTH)
        for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias", "mlp.c_proj.bias"):
            shapes[f"h.{layer}.{name}"] = (WIDTH,)
    return {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}


if __name__ == "__main__":
    main()
