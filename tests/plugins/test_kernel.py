"""The kernel of linear models, whose spectrum and alignment are known."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Curve, Reading, Skip
from sounding.kernels import alignment_by_chance, centred, gram_of
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.kernel import kernel

CLASSES = torch.tensor([0, 1, 2, 3]).repeat(5)


def told(findings: Any) -> tuple[dict[str, Reading], dict[str, Curve], list[str]]:
    readings = {each.metric: each for each in findings if isinstance(each, Reading)}
    curves = {each.metric: each for each in findings if isinstance(each, Curve)}
    return readings, curves, [each.reason for each in findings if isinstance(each, Skip)]


def test_inputs_that_are_the_classes(sounding_plugin: Trial):
    # K = C·[same class]: n/C·C/n = 1 for each of the C classes that has an eigenvector.
    hot = nn.functional.one_hot(CLASSES, 4).float()
    model = nn.Linear(4, 4, bias=False)
    readings, curves, skips = told(sounding_plugin(kernel, model=model, probe=Probe(train=(hot, CLASSES))))
    assert readings["target_alignment"].value == pytest.approx(1.0)
    # Of centred kernels of C equal classes chance gives (C - 1)/(n - 1).
    assert readings["target_alignment_by_chance"].value == pytest.approx(3 / 19)
    assert readings["trace"].value == pytest.approx(4.0)
    assert readings["lambda_max"].value == pytest.approx(1.0)
    assert readings["effective_rank"].value == pytest.approx(4.0)
    assert readings["participation_ratio"].value == pytest.approx(4.0)
    assert curves["spectrum"].y == pytest.approx([1.0] * 4 + [0.0] * 16, abs=1e-12)
    assert curves["target_power"].y == pytest.approx([1 / 3, 2 / 3, *[1.0] * 18])
    assert (readings["examples"].value, readings["outputs"].value) == (20, 4)
    # One pass over 20 examples for the outputs, one for the pairs, two examples by themselves; four outputs.
    assert (readings["forwards"].value, readings["backwards"].value) == (42, 80)
    assert readings["forwards"].kind == "pairs"
    assert skips == []


def test_numbers_as_targets(sounding_plugin: Trial):
    inputs = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    target = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    readings, _, _ = told(sounding_plugin(kernel, model=nn.Linear(3, 1), probe=Probe(train=(inputs, target))))
    inner, targets = centred((inputs @ inputs.T).double().numpy()), centred(gram_of(target.double().numpy()))
    expected = float((inner * targets).sum() / np.linalg.norm(inner) / np.linalg.norm(targets))
    assert readings["target_alignment"].value == pytest.approx(expected, rel=1e-5)
    assert readings["target_alignment_by_chance"].value == pytest.approx(alignment_by_chance(inner, targets), rel=1e-5)


def test_what_cannot_be_aligned(sounding_plugin: Trial):
    inputs = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    one = Probe(train=(inputs, torch.zeros(30, dtype=torch.long)))
    readings, curves, skips = told(sounding_plugin(kernel, model=nn.Linear(3, 2), probe=one))
    assert "target_alignment" not in readings
    assert "target_power" not in curves
    assert "equal" in skips[0]
    wide = Probe(train=(inputs, torch.zeros(30, 5)))
    assert "neither one class" in told(sounding_plugin(kernel, model=nn.Linear(3, 2), probe=wide))[2][0]
    still = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    nn.init.zeros_(still[0].weight)
    nn.init.zeros_(still[0].bias)
    nn.init.zeros_(still[1].weight)
    readings, curves, skips = told(sounding_plugin(kernel, model=still, probe=one))
    assert "no spectrum" in skips[0]
    assert curves == {}


def test_directions_at_random_are_an_estimate(sounding_plugin: Trial):
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    probe = Probe(train=(inputs, torch.arange(10)))
    readings, _, _ = told(sounding_plugin(kernel, model=nn.Linear(3, 100), probe=probe))
    assert readings["directions"].value == 64
    assert readings["trace"].quality == "unconverged"
    assert readings["trace"].value == pytest.approx(100 * float((inputs**2).sum() / 10 + 1), rel=1e-5)
