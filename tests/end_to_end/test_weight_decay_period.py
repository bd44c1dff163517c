"""A short real training that weight decay destabilises again and again; the long ones are in tests/soak."""

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from soak.trainings.batch_norm_digits import main as train

from sounding import Reading
from sounding.passes import Course, Line
from sounding.testing import Trial
from sounding_plugins.training_regime import training_regime

PLUGIN: Any = training_regime
LAYERS = ("0.weight", "3.weight")
RATE, DECAY, MOMENTUM = 0.01, 0.1, 0.9


def by_hand(trees: list[dict[str, Any]]) -> dict[Line, Course]:
    """What the plugins that it builds on would read, in float64."""
    steps = np.array([tree["global_step"] for tree in trees])
    known: dict[Line, Course] = {}

    def course(values: list[float], first: int = 0) -> Course:
        return Course(steps[first:], steps[first:].astype(np.float64), np.array(values))

    for layer in LAYERS:
        weights = [tree["model"][layer].double() for tree in trees]
        norms = [float(each.norm()) for each in weights]
        units = [each / norm for each, norm in zip(weights, norms, strict=True)]
        angles = [2 * math.asin(float((b - a).norm()) / 2) for a, b in itertools.pairwise(units)]
        known[Line("weight_norm.frobenius", layer)] = course(norms)
        known[Line("weight_norm.rms", layer)] = course([norm / weights[0].numel() ** 0.5 for norm in norms])
        known[Line("weight_change.rotation", layer)] = course(angles, 1)
    for metric, value in (("learning_rate", RATE), ("decay_rate", RATE * DECAY / (1 - MOMENTUM))):
        known[Line(f"effective_learning_rate.{metric}", index=0)] = course([value] * len(steps))
    return known


def test_each_destabilisation_is_one_of_the_loss_too(sounding_plugin: Trial, tmp_path: Path):
    train([str(tmp_path), "run", "--decay", str(DECAY), "--updates", "560", "--every", "8"])
    paths = sorted((tmp_path / "run").glob("step_*.pt"), key=lambda path: int(path.stem[5:]))
    trees = [torch.load(path) for path in paths]
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    loss = np.array([float(row["loss"]) for row in rows])
    history: Any = by_hand(trees)
    found = [
        each
        for each in sounding_plugin(PLUGIN, history=history, checkpoints=[trees[-1]], logs={"loss": (range(560), loss)})
        if isinstance(each, Reading)
    ]
    begins = [int(each.value or 0) for each in found if each.metric == "destabilisation"]
    assert len(begins) >= 3
    for begin, end in zip(begins, [*begins[1:], 560], strict=True):
        calm = np.median(loss[begin - 40 : begin - 8])
        assert loss[begin - 8 : min(begin + 64, end)].max() > 3 * calm, begin
    (period,) = [each.value for each in found if each.metric == "period"]
    (predicted,) = [each.value for each in found if each.metric == "predicted_period"]
    assert period is not None
    assert predicted is not None
    assert 0.25 * period < predicted < period, "decay alone is faster than decay against gradients, and the jump itself"
