"""Processor time and error of neural collapse's statistics, beside three passes over the features from the formulas.

One thread. Every pair runs ours and then the reference on the same float32 features and classifier. Ours is given the
logits, which the traversal has from the forward; the reference, which goes over the features alone, computes them in
its third pass (what they cost is kept as `logits_cpu_s`: add it to ours for the other way of counting). Errors are
those of each against the three passes in float64. Features are those of MLPs trained on scikit-learn's digits, and
synthetic ones. Last, what a traversal of the probe costs with the moments and without.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from collapse_reference import figures, three_passes
from record import record
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sounding.geometry import collapse
from sounding.geometry.class_moments import ClassMomentsState
from sounding.geometry.moments import ClassMoments
from sounding.geometry.nulls import nc1_of_permuted_labels
from sounding.measuring.traversal import Wanted, traverse
from sounding.passes.class_moments import class_moments
from sounding.passes.head import head
from sounding.passes.layer_moments import layer_moments
from sounding.passes.model import Model
from sounding.passes.predictions import PredictionsAccumulator
from sounding.recipe import Probe, Recipe, Run

T = TypeVar("T")
BATCH = 128
PAIRS = {64: 21, 512: 11, 2048: 3}


class Subject:
    """Features [N, d], their classes, and a classifier."""

    def __init__(self, rows: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, batch: int) -> None:
        self.rows, self.labels, self.weight, self.bias, self.batch = rows, labels, weight, bias, batch
        self.logits_cpu_s, self.logits = timed(lambda: self._logits())

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Once through."""
        return zip(torch.split(self.rows, self.batch), torch.split(self.labels, self.batch), strict=True)

    def _logits(self) -> Tensor:
        return torch.cat([torch.addmm(self.bias, rows, self.weight.T) for rows, _ in self.batches()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    titles = ("features", "N", "d", "C", "reference s", "ours s", "ratio", "its error", "ours", "NC4 bounds", "null s")
    print("{:<10}{:>7}{:>6}{:>6}{:>13}{:>9}{:>7}{:>11}{:>9}{:>18}{:>8}".format(*titles))
    kept = {}
    for width, pairs in PAIRS.items():
        kept[f"digits {width}"] = shown("digits", compared(digits(width), pairs))
    for classes in (100, 1000):
        kept[f"synthetic {classes}"] = shown("synthetic", compared(synthetic(50_000, 2048, classes), 1))
    added = traversal()
    print(
        f"moments of the features and of every block add {added:.2f} of a forward (ResNet of 11 M parameters, 32 x 32)"
    )
    if options.keep:
        record("neural_collapse", {"threads": 1, "batch": BATCH, "compared": kept, "added_forwards": added})


def compared(subject: Subject, pairs: int) -> dict[str, float]:
    truth = figures(
        three_passes(subject.batches, subject.weight, subject.bias, torch.float64), subject.weight, subject.bias
    )
    small = Subject(subject.rows[:500], subject.labels[:500], subject.weight, subject.bias, subject.batch)
    ours(small)  # what is loaded once is loaded
    rows = []
    for _ in range(pairs):
        mine, (found, state) = timed(lambda: ours(subject))
        theirs, reference = timed(lambda: public(subject))
        rows.append((theirs, mine))
    low, high = found.pop("low"), found.pop("high")
    assert low <= truth["nc4_disagreement"] <= high
    return {
        "examples": len(subject.rows),
        "width": subject.rows.shape[1],
        "classes": len(subject.weight),
        "pairs": pairs,
        "reference_cpu_s": statistics.median(row[0] for row in rows),
        "cpu_s": statistics.median(row[1] for row in rows),
        "logits_cpu_s": subject.logits_cpu_s,
        "ratio": statistics.median(row[0] / row[1] for row in rows),
        "reference_error": worst(reference, truth),
        "error": worst(found, truth),
        "nc4": truth["nc4_disagreement"],
        "nc4_low": low,
        "nc4_high": high,
        "null_cpu_s": timed(lambda: nc1_of_permuted_labels(state, draws=1))[0],
    }


def worst(found: dict[str, float], truth: dict[str, float]) -> float:
    """The greatest relative error of what is no count."""
    return max(abs(found[name] / truth[name] - 1) for name in truth if name != "nc4_disagreement")


def moments(subject: Subject) -> ClassMoments:
    state = ClassMomentsState()
    for (rows, labels), logits in zip(subject.batches(), torch.split(subject.logits, subject.batch), strict=True):
        state.update(rows, labels, logits.argmax(1))
    found = state.result()
    assert found is not None
    return found


def ours(subject: Subject) -> tuple[dict[str, float], ClassMoments]:
    found = moments(subject)
    assert found.disagreement is not None
    weight, bias = subject.weight.double()[found.classes], subject.bias.double()[found.classes]
    centred = found.centred
    numbers = {
        "nc1_pinv": collapse.nc1_pinv(found),
        "nc1_quotient": collapse.nc1_quotient(found),
        "cdnv": collapse.cdnv(found),
        "nc2_norm_means": collapse.norm_variation(centred),
        "nc2_norm_head": collapse.norm_variation(weight),
        "nc2_angle_means": collapse.angle_deviation(centred),
        "nc2_angle_head": collapse.angle_deviation(weight),
        "nc2_etf_error_means": collapse.etf_error(centred @ centred.T),
        "nc2_etf_error_head": collapse.etf_error(weight @ weight.T),
        "nc3_self_duality": collapse.self_duality(weight, centred),
        "nc3_etf_error": collapse.etf_error(weight @ centred.T),
        "nc3_bias": collapse.bias_collapse(weight, bias, found),
        "low": found.disagreement.low,
        "high": found.disagreement.high,
    }
    return numbers, found


def public(subject: Subject) -> dict[str, float]:
    found = three_passes(subject.batches, subject.weight, subject.bias, torch.float32)
    return figures(found, subject.weight, subject.bias)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def digits(width: int) -> Subject:
    """What enters the head of a network of one hidden layer after 30 epochs."""
    data = load_digits()
    images, labels = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    body, last = nn.Sequential(nn.Linear(64, width), nn.ReLU()), nn.Linear(width, 10)
    optimizer = torch.optim.SGD([*body.parameters(), *last.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4)
    for _ in range(30):
        for batch in torch.randperm(len(labels)).split(100):
            loss = nn.functional.cross_entropy(last(body(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return Subject(body(images), labels, last.weight.detach(), last.bias.detach(), BATCH)


def synthetic(examples: int, width: int, classes: int) -> Subject:
    """Rectified noise around class centres, and a classifier near them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (examples,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    rows = torch.empty(examples, width)
    for part, of_part in zip(torch.split(rows, 1000), torch.split(labels, 1000), strict=True):
        part.normal_(0, 1.5, generator=generator).add_(centres[of_part]).relu_()
    weight = centres + 0.5 * torch.randn(classes, width, generator=generator)
    return Subject(rows, labels, weight, torch.randn(classes, generator=generator), 512)


def traversal(examples: int = 128, pairs: int = 3) -> float:
    """Forwards that the moments cost: time with them less time without, over the time of the bare forward."""
    torch.manual_seed(0)
    module = resnet()
    probe = Probe(train=(torch.randn(examples, 3, 32, 32), torch.arange(examples) % 10))
    functions = {"architecture": lambda checkpoint: module, "probe": lambda run: probe}
    recipe, run = Recipe("", 1, functions), Run("", "", {})
    model = Model(module.eval(), recipe, torch.device("cpu"))
    found = head(model, recipe, run)
    without = {"predictions": Wanted(lambda: PredictionsAccumulator(probe))}
    taps = layer_moments.taps(modules="", widest=4096)
    both = {
        **without,
        "class_moments": Wanted(lambda: class_moments(found, recipe, run), False, class_moments.taps),
        "layer_moments": Wanted(lambda: layer_moments(), False, taps),
    }
    ratios = []
    for _ in range(pairs):
        bare = timed(lambda: traverse(model, probe, without))[0]
        ratios.append(timed(lambda: traverse(model, probe, both, head=found))[0] / bare - 1)
    return statistics.median(ratios)


def resnet() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1)]
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers.append(Stage(max(64, width // 2), width, stride))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Stage(nn.Module):
    """Two residual blocks."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(inputs, width, 1, stride)
        self.first = nn.Sequential(*conv(inputs, width, stride), nn.ReLU(), *conv(width, width))
        self.second = nn.Sequential(*conv(width, width), nn.ReLU(), *conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Both, each beside its short way."""
        x = (self.short(x) + self.first(x)).relu()
        return (x + self.second(x)).relu()


def conv(inputs: int, width: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)


def shown(name: str, row: dict[str, float]) -> dict[str, float]:
    print(
        f"{name:<10}{row['examples']:>7}{row['width']:>6}{row['classes']:>6}{row['reference_cpu_s']:>13.4f}"
        f"{row['cpu_s']:>9.4f}{row['ratio']:>7.1f}{row['reference_error']:>11.1e}{row['error']:>9.1e}"
        f"{row['nc4_low']:>9.4f}{row['nc4_high']:>9.4f}{row['null_cpu_s']:>8.3f}"
    )
    return row


if __name__ == "__main__":
    main()
