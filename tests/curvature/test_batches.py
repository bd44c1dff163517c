"""Losses of batches: what goes through the network at once changes nothing, and what has no curvature says why."""

import copy
import re

import pytest
import torch
from curvature.nets import Case
from torch import nn

from sounding import Run, Unavailable
from sounding.curvature.batches import MiniBatch
from sounding.curvature.memory import Allocations
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


def around(module, loss=None, data=(X, Y), **settings):  # noqa: ANN003
    probe = Probe(train=data)
    functions = {"probe": lambda run: probe}
    if loss is not None:
        functions["loss"] = lambda outputs, targets, inputs: loss(outputs, targets)
    recipe = Recipe("here", 1, functions)
    return surroundings(Model(module, recipe, torch.device("cpu")), recipe, Run("", "", {}), **settings)


def nothing(outputs, targets):
    return outputs.square().sum(1), torch.zeros(len(targets))


def test_a_batch_is_refused_with_the_same_reasons():
    with pytest.raises(Unavailable, match=r"cannot be differentiated twice: .*cdist"):
        around(Distances(5, 3)).in_batches(12)
    with pytest.raises(Unavailable, match="every loss weight"):
        around(perceptron(), nothing).in_batches(12).each(1, MiniBatch.along_gradient)
    with pytest.raises(Unavailable, match="every loss weight of a batch is zero"):
        around(perceptron(), nothing).evaluated().gradient()
    with pytest.raises(Unavailable, match="a batch has 13 examples, and the subset of the probe 12"):
        around(perceptron()).in_batches(13)


def told(batch):
    return batch.gradient, batch.lambda_max(1e-4).value, batch.way


@pytest.mark.parametrize("loss", [None, lambda out, y: out.square().sum(1) * (1 + y)])
def test_what_does_not_fit_is_built_anew_and_gives_the_same(loss):
    module = perceptron()
    expected = torch.linalg.eigvalsh(Case(copy.deepcopy(module).double(), X.double(), Y, loss).dense_hessian())[-1]
    plenty, tight = ((around(module, loss, chunk=3, memory_gb=size)) for size in (1.0, 5e-6))
    (slope, value, way), (same_slope, same, less) = (each.in_batches(12).each(9, told)[0] for each in (plenty, tight))
    assert way == "reverse over reverse, graph kept"
    kept, chunks = map(int, re.search(r"graphs of (\d+) of (\d+) chunks kept", less).groups())
    assert kept < chunks
    assert chunks == 4
    torch.testing.assert_close(same_slope, slope, rtol=1e-5, atol=1e-7)
    assert value == pytest.approx(expected.item(), rel=1e-3)
    assert same == pytest.approx(value, rel=1e-4)


def test_no_more_is_taken_than_is_left_to_graphs():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))
    found = around(module, data=(torch.randn(96, 5), torch.arange(96) % 3), chunk=24, memory_gb=2e-4)
    with Allocations() as counted:
        ways = found.in_batches(96).each(1, lambda batch: batch.along_gradient() and batch.way)
    assert ways == ["reverse over reverse, graphs of 1 of 4 chunks kept"]
    assert counted.peak <= found._examined[2].graphs


def test_batches_that_do_not_fit_at_all_are_refused_with_the_sum():
    module = perceptron()
    with pytest.raises(Unavailable, match=r"one example takes .* GiB and 13 vectors .*\[passes.surroundings\]"):
        around(module, memory_gb=3.5e-6).in_batches(12)
    module.register_forward_pre_hook(lambda *given: pytest.fail("the network was asked"))
    with pytest.raises(Unavailable, match=r"13 vectors .* memory_gb allows"):
        around(module, memory_gb=1e-6).in_batches(12)


def test_a_network_that_has_learnt_all_has_batches_in_float64():
    module = nn.Linear(5, 3)
    module.weight.data *= 1e-3
    module.bias.data = torch.tensor([20.0, 0.0, 0.0])  # of the first class, by losses that float32 does not tell from 0
    batches = around(module, lambda out, y: nn.functional.cross_entropy(out, 0 * y, reduction="none")).in_batches(12)
    assert batches.each(1, lambda batch: batch.operator.dtype) == [torch.float64]


def test_smaller_chunks_give_the_same_loss_gradient_and_batches():
    whole_, split = (around(perceptron(), chunk=chunk).evaluated() for chunk in (256, 5))
    assert [len(each) for each in split.chunks] == [5, 5, 2]
    assert list(split.batches(6)) == [[range(5), range(5, 6)], [range(6, 11), range(11, 12)]]
    assert split.here[0] == pytest.approx(whole_.here[0], rel=1e-6)
    torch.testing.assert_close(split.here[1], whole_.here[1], rtol=1e-5, atol=1e-7)
