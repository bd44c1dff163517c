"""Processor time that neural_collapse, feature_rank and angle_concentration add to the one traversal that all share.

One thread, in pairs: a job of `loss` alone, then the same job with the three plugins beside it, on ResNet-20 and a GPT
of three million parameters as they are initialised. The difference, what the plugins compute afterwards included, is
told in forwards over the same probe: how many of them would have taken as long.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from peers.curvature_subjects import network
from record import record
from torch import nn

from sounding.measuring.discovery import Loaded, load
from sounding.measuring.measure import measure
from sounding.recipe import Probe, Recipe
from sounding.records import Checkpoint, Ending, Job, Key, Subject, Task
from sounding.stamps import stamp_of

ALONE = ("loss",)
TOGETHER = (*ALONE, "neural_collapse", "feature_rank", "angle_concentration")
PAIRS = 5


@dataclass(frozen=True)
class Case:
    """A saved network and the probe that it is measured on."""

    name: str
    model: nn.Module
    probe: Probe
    directory: Path

    def forward(self) -> None:
        """All of the probe through the network, and nothing else."""
        with torch.inference_mode():
            for split in self.probe.splits.values():
                for start in range(0, split.size, 64):
                    self.model(split.batch(start, min(start + 64, split.size))[0])

    def job(self, loaded: Loaded, plugins: tuple[str, ...]) -> None:
        """What a worker does, one checkpoint."""
        path = self.directory / f"{self.name}.pt"
        when = datetime(2026, 1, 1, tzinfo=UTC)
        checkpoint = Checkpoint(self.name, "lab", "a", 1, str(path), "torch", "", stamp_of(path), 1, when)
        subject = Subject("checkpoint", "lab", "a", 1, self.name)
        tasks = (Task(Key(each, 1, "", "", subject.identity), subject, {}) for each in plugins)
        own = {"architecture": lambda checkpoint: network(self.name), "probe": lambda run: self.probe}
        results = measure(Job(1, checkpoint, tuple(tasks)), loaded, Recipe("recipe.py", 1, own))
        # An image has no sequence of positions: angle_concentration is skipped there, once it has looked.
        wrong = [each for each in results if each.ending not in (Ending.OK, Ending.SKIPPED)]
        assert not wrong, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load()
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in ("resnet20", "gpt"):
            found[name] = compared(case_of(name, Path(directory)), loaded)
            print(f"{name}: {found[name]}")
    if options.keep:
        record("traversal", {"plugins": list(TOGETHER[1:]), "pairs": PAIRS, "one thread": True, **found})


def case_of(name: str, directory: Path) -> Case:
    torch.manual_seed(0)
    model = network(name).eval()
    torch.save({"model": model.state_dict()}, directory / f"{name}.pt")
    if name == "gpt":
        splits = [tuple(torch.randint(0, 96, (2, size, 64))) for size in (256, 64)]
        return Case(name, model, Probe(train=splits[0], heldout=splits[1], unit="token"), directory)
    images = [(torch.randn(size, 1, 16, 16), torch.arange(size) % 10) for size in (2000, 500)]
    return Case(name, model, Probe(train=images[0], heldout=images[1]), directory)


def compared(case: Case, loaded: Loaded) -> dict[str, float]:
    """Medians over the pairs; forwards and jobs take turns, as the machine may be busy."""
    case.job(loaded, TOGETHER)  # loads what is loaded once
    case.forward()
    forwards, alone, together, added = [], [], [], []
    for _ in range(PAIRS):
        forwards.append(timed(case.forward))
        alone.append(timed(lambda: case.job(loaded, ALONE)))
        together.append(timed(lambda: case.job(loaded, TOGETHER)))
        added.append((together[-1] - alone[-1]) / forwards[-1])
    middle = statistics.median
    return {
        "forward_cpu_s": round(middle(forwards), 2),
        "loss_cpu_s": round(middle(alone), 2),
        "with_the_three_cpu_s": round(middle(together), 2),
        "added_forwards": round(middle(added), 2),
        "least": round(min(added), 2),
        "most": round(max(added), 2),
    }


def timed(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


if __name__ == "__main__":
    main()
