"""Losses of batches: what goes through the network at once changes nothing, and what has no curvature says why."""

import pytest
import torch
from curvature.nets import Case
from torch import nn

from sounding import Run, Unavailable
from sounding.curvature.batches import MiniBatch
from sounding.curvature.surroundings import Surroundings
from sounding.passes.model import Model
from sounding.passes.surroundings import surroundings
from sounding.probe import Probe
from sounding.recipe import Recipe

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def perceptron():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


class Distances(nn.Linear):
    """Its derivative has none of its own in torch."""

    def forward(self, input):
        return -torch.cdist(input, self.weight)


def test_a_batch_is_refused_with_the_same_reasons():
    def batch(module, loss=None):
        objective = Case(module, X, Y, loss).curvature()._objective("eval", len(X))
        return MiniBatch(Surroundings(objective, [range(12)]), [range(12)])

    with pytest.raises(Unavailable, match=r"cannot be differentiated twice: .*cdist"):
        batch(Distances(5, 3)).along_gradient()
    nothing = lambda out, y: (out.square().sum(1), torch.zeros(len(y)))  # noqa: E731
    with pytest.raises(Unavailable, match="every loss weight of a batch is zero"):
        batch(perceptron(), nothing)
    around = Surroundings(Case(perceptron(), X, Y, nothing).curvature()._objective("eval", 12), [range(12)])
    with pytest.raises(Unavailable, match="every loss weight of a batch is zero"):
        around.gradient()


def test_smaller_chunks_give_the_same_loss_gradient_and_batches():
    case = Case(perceptron(), X, Y)
    probe = Probe(train=(X, Y))
    recipe = Recipe("here", 1, {"probe": lambda run: probe})
    given = Model(case.module, recipe, torch.device("cpu")), recipe, Run("", "", {})
    whole_, split = (surroundings(*given, chunk=chunk).evaluated() for chunk in (256, 5))
    assert [len(each) for each in split.chunks] == [5, 5, 2]
    assert list(split.batches(6)) == [[range(5), range(5, 6)], [range(6, 11), range(11, 12)]]
    assert split.here[0] == pytest.approx(whole_.here[0], rel=1e-6)
    torch.testing.assert_close(split.here[1], whole_.here[1], rtol=1e-5, atol=1e-7)
