"""One traversal fills everything; its numbers do not depend on how the probe is cut, and it leaves no trace."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import SoundingError
from sounding.batch import Batch
from sounding.measuring.traversal import Wanted, is_out_of_memory, traverse
from sounding.passes.gradients import GradientsAccumulator
from sounding.passes.model import Model
from sounding.passes.predictions import PredictionsAccumulator
from sounding.probe import Probe
from sounding.recipe import Recipe

CPU = torch.device("cpu")


class Net(nn.Module):
    """Normalised and with dropout, so that the mode matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
        self.double()
        self(torch.randn(50, 6, dtype=torch.float64))
        self.forwards = 0

    def forward(self, x: Any):
        self.forwards = getattr(self, "forwards", 0) + 1
        return self.body(x)


@pytest.fixture
def probe():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(50, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (50,), generator=generator)
    return Probe(train=(x[:37], y[:37]), heldout=(x[37:], y[37:]))


def model_of(module: Any, **functions: Any):
    return Model(module, Recipe("recipe.py", 1, functions), CPU)


def wanted(probe: Probe):
    return {
        "predictions": Wanted(lambda: PredictionsAccumulator(probe)),
        "gradients": Wanted(GradientsAccumulator, gradients=True),
    }


@pytest.mark.parametrize("at_most", [1, 2, 7, 8, 36, 37, 1000])
def test_numbers_do_not_depend_on_the_batches(probe: Probe, at_most: int):
    net = Net()
    found = traverse(model_of(net), probe, wanted(probe), at_most=at_most)
    net.eval()
    for name, split in probe.splits.items():
        x, y = split.batch(0, split.size)
        twin = nn.functional.cross_entropy(net(x), y, reduction="none").detach()
        assert torch.allclose(found["predictions"][name].losses, twin, rtol=1e-12, atol=0)
        assert torch.equal(found["predictions"][name].predicted, net(x).argmax(1))
        assert found["predictions"][name].mean_loss().value == pytest.approx(float(twin.mean()), rel=1e-12)
    x, y = probe.splits["train"].batch(0, 37)
    names, parameters = zip(*net.named_parameters(), strict=True)
    twins = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), parameters)
    for name, twin in zip(names, twins, strict=True):
        assert torch.allclose(found["gradients"][name], twin, rtol=1e-9, atol=1e-15), name


def test_every_example_is_run_once_whatever_is_wanted(probe: Probe):
    net = Net()
    sizes = []
    net.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(outputs)))
    traverse(model_of(net), probe, wanted(probe))
    assert sizes == [8, 29, 13]


def test_gradients_are_taken_only_when_asked_for_and_only_of_train(probe: Probe):
    seen = []

    class Watcher:
        def update(self, batch: Batch):
            seen.append((batch.split, batch.gradients is not None))
            assert not batch.outputs.requires_grad

        def result(self):
            return None

    traverse(model_of(Net()), probe, {"w": Wanted(Watcher)})
    assert {has for _, has in seen} == {False}
    seen.clear()
    traverse(model_of(Net()), probe, {"w": Wanted(Watcher), "g": Wanted(GradientsAccumulator, gradients=True)})
    assert {has for split, has in seen if split == "train"} == {True}
    assert {has for split, has in seen if split == "heldout"} == {False}


def test_batches_grow_within_the_budget(probe: Probe):
    sizes = []
    net = Net()
    net.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(outputs)))
    per_example = (5 + 5 + 5 + 5 + 3) * 8
    traverse(model_of(net), probe, {"p": wanted(probe)["predictions"]}, budget=10 * per_example)
    assert sizes == [8, 10, 10, 9, 10, 3]


def test_it_leaves_modes_gradients_hooks_and_generators_as_they_were(probe: Probe):
    net = Net().train()
    net.body[1].eval()
    modes = [child.training for child in net.modules()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(1))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)

    def noisy(model: Any, inputs: Any):
        torch.rand(1), random.random(), np.random.rand()
        return model(inputs)

    traverse(model_of(net, forward=noisy), probe, wanted(probe))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert [child.training for child in net.modules()] == modes
    assert all(each.grad is None for each in net.parameters())
    assert not any(child._forward_hooks for child in net.modules())


def test_a_forward_that_fails_leaves_no_hooks_and_the_modes(probe: Probe):
    net = Net().train()

    def failing(model: Any, inputs: Any):
        model(inputs)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        traverse(model_of(net, forward=failing), probe, wanted(probe))
    assert net.training
    assert not any(child._forward_hooks for child in net.modules())


@pytest.mark.parametrize("where", ["make", "update", "result"])
def test_an_accumulator_that_fails_harms_no_other(probe: Probe, where: str):
    class Failing:
        def __init__(self) -> None:
            self.check("make")

        def update(self, batch: Batch):
            self.check("update")

        def result(self):
            self.check("result")

        def check(self, at: Any):
            if at == where:
                raise ValueError(at)

    found = traverse(model_of(Net()), probe, {"bad": Wanted(Failing), **wanted(probe)})
    assert isinstance(found["bad"], ValueError)
    assert len(found["predictions"]["train"].losses) == 37
    assert len(found["gradients"]) == 6


def test_when_all_have_failed_nothing_more_is_run(probe: Probe):
    class Failing:
        def update(self, batch: Batch):
            raise ValueError

    net = Net()
    before = net.forwards
    traverse(model_of(net), probe, {"bad": Wanted(Failing)})
    assert net.forwards == before + 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried"),
    ],
)
def test_memory_that_runs_out_halves_the_batches_and_starts_again(probe: Probe, error: Exception):
    net = Net()
    sizes = []

    def limited(model: Any, inputs: Any):
        sizes.append(len(inputs))
        if len(inputs) > 9:
            raise error
        return model(inputs)

    found = traverse(model_of(net, forward=limited), probe, wanted(probe), at_most=30)
    assert max(sizes[sizes.index(29) + 1 :]) <= 15
    reference = traverse(model_of(net), probe, wanted(probe))
    assert torch.allclose(found["predictions"]["train"].losses, reference["predictions"]["train"].losses, rtol=1e-12)
    assert torch.allclose(found["gradients"]["body.0.weight"], reference["gradients"]["body.0.weight"], rtol=1e-9)


def test_memory_that_an_accumulator_runs_out_of_starts_again_too(probe: Probe):
    class Hungry:
        def __init__(self) -> None:
            self.sizes = []

        def update(self, batch: Batch):
            if batch.size > 4:
                raise MemoryError
            self.sizes.append(batch.size)

        def result(self):
            return self.sizes

    found = traverse(model_of(Net()), probe, {"h": Wanted(Hungry)})
    assert sum(found["h"]) == 50


def test_when_not_one_example_fits(probe: Probe):
    def never(model: Any, inputs: Any):
        raise MemoryError("no room")

    with pytest.raises(SoundingError, match=r"not one example fits into the memory of cpu \(no room\)"):
        traverse(model_of(Net(), forward=never), probe, wanted(probe))


def test_other_errors_are_no_lack_of_memory():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda o, t, i: nn.functional.cross_entropy(o, t), "returned shape () for 8 examples"),
        (lambda o, t, i: o, r"returned shape (8, 3) for 8 examples, expected [8]"),
        (lambda o, t, i: 3.0, "returned a float"),
        (lambda o, t, i: (o[:, 0], torch.ones(2)), "loss weights are of shape (2,)"),
    ],
)
def test_losses_that_are_not_per_example(probe: Probe, loss: Any, words: Any):
    with pytest.raises(SoundingError) as caught:
        traverse(model_of(Net(), loss=loss), probe, wanted(probe))
    assert words in str(caught.value)


def test_outputs_that_the_default_loss_does_not_fit():
    probe = Probe(train=(torch.ones(4, 6, dtype=torch.float64), torch.ones(4)))
    with pytest.raises(SoundingError, match=r"no default loss fits outputs of shape \(4, 3\)"):
        traverse(model_of(Net()), probe, wanted(probe))


def test_weights_of_zero_silence_what_is_not_a_number(probe: Probe):
    def weighted(outputs: Any, targets: Any, inputs: Any):
        losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
        first = torch.arange(len(losses)) == 0
        return torch.where(first, torch.nan, losses), (~first).double()

    found = traverse(model_of(Net(), loss=weighted), probe, wanted(probe))
    assert np.isfinite(found["predictions"]["train"].mean_loss().value)
    assert all(each.isfinite().all() for each in found["gradients"].values())


def test_a_loss_without_gradient_is_explained(probe: Probe):
    def detached(model: Any, inputs: Any):
        return model(inputs).detach()

    found = traverse(model_of(Net(), forward=detached), probe, wanted(probe))
    assert "does not depend on any parameter" in str(found["gradients"])
    assert len(found["predictions"]["heldout"].losses) == 13  # what needs no gradient goes on


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_agrees_with_the_cpu(probe: Probe):
    net = Net()
    here = traverse(model_of(net), probe, wanted(probe))
    there = traverse(Model(net.to("cuda"), Recipe("r", 1, {}), torch.device("cuda")), probe, wanted(probe))
    assert torch.allclose(here["predictions"]["train"].losses, there["predictions"]["train"].losses, rtol=1e-9)
    for name, gradient in here["gradients"].items():
        assert torch.allclose(gradient, there["gradients"][name].cpu(), rtol=1e-9, atol=1e-14)
