"""What has no curvature, or none that can be had, is refused with its reason; what is degenerate gives what it is."""

import copy
import math

import numpy as np
import pytest
import torch
from curvature.dense import Dense
from curvature.nets import Case, whole
from torch import nn

from sounding import SoundingError, Unavailable
from sounding.curvature.memory import LEAST, MOST, OWN, Allocations, Memory, Need, chunks_of, need_of
from sounding.curvature.operator import difference

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def perceptron():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


class Noisy(nn.Linear):
    def forward(self, input):
        return super().forward(input) * (1 + 0.1 * torch.randn_like(input[:, :1]))


class Distances(nn.Linear):
    """Its derivative has none of its own in torch."""

    def forward(self, input):
        return -torch.cdist(input, self.weight)


class Wrong(torch.autograd.Function):
    """x², with a derivative that is not one of anything: its own derivative is not symmetric."""

    @staticmethod
    def forward(ctx, x):  # noqa: ANN205
        ctx.save_for_backward(x)
        return (x**2).sum(1)

    @staticmethod
    def backward(ctx, slope):  # noqa: ANN205
        (x,) = ctx.saved_tensors
        return slope[:, None] * (2 * x + x.roll(1, 1) ** 2)


class Bent(nn.Linear):
    def forward(self, input):
        return Wrong.apply(super().forward(input))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("matrix", ["hessian", "ggn", "fisher"])
def test_a_diverged_checkpoint(value, matrix):
    module = perceptron()
    module[0].weight.data[0, 0] = value
    with pytest.raises(Unavailable, match=r"`0.weight` holds NaN or infinity"):
        getattr(Case(module, X, Y).curvature(), matrix)()


def test_a_loss_that_overflows():
    module = perceptron()
    module[2].weight.data *= 1e30
    with pytest.raises(Unavailable, match="not finite"):
        Case(module, X, Y, lambda out, y: out.square().sum(1)).curvature().hessian()


def test_a_loss_that_overflows_on_one_example_only():
    case = Case(nn.Linear(5, 3), torch.cat([X] * 20), torch.cat([Y] * 20))
    case.inputs[case.curvature().subset.positions[-1]] *= math.inf
    with pytest.raises(Unavailable, match="the mean loss is nan"):
        case.curvature().hessian()


def test_a_frozen_network():
    with pytest.raises(Unavailable, match="no parameter of the network requires a gradient"):
        Case(perceptron().requires_grad_(False), X, Y).curvature()


def test_a_single_parameter():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(3.0)
    x = torch.tensor([[2.0], [1.0]])
    curvature = Case(module, x, x, lambda out, y: out[:, 0] ** 3).curvature()  # w³x³: 6w·mean(x³)
    assert whole(curvature.hessian()).item() == pytest.approx(6 * 3 * (8 + 1) / 2)
    assert curvature.gradient().item() == pytest.approx(3 * 9 * (8 + 1) / 2)


@pytest.mark.parametrize("matrix", ["hessian", "ggn", "fisher"])
def test_a_constant_loss_has_no_curvature_at_all(matrix):
    curvature = Case(perceptron(), X, Y, lambda out, y: y.float()).curvature()
    assert not whole(getattr(curvature, matrix)()).any()
    assert not curvature.gradient().any()
    assert curvature.loss() == pytest.approx(1.0)


def test_a_loss_that_is_linear():
    curvature = Case(nn.Linear(5, 3), X, Y, lambda out, y: out.sum(1)).curvature()
    assert not whole(curvature.hessian()).any()
    assert not whole(curvature.ggn()).any()
    assert whole(curvature.fisher()).any()


def test_a_network_that_draws_random_numbers():
    state = torch.get_rng_state()
    with pytest.raises(Unavailable, match="draws random numbers in evaluation mode"):
        Case(Noisy(5, 3), X, Y).curvature().hessian()
    assert torch.equal(torch.get_rng_state()[:8], state[:8])


def test_an_operation_without_second_derivative_is_named():
    with pytest.raises(Unavailable, match=r"cannot be differentiated twice: .*cdist"):
        Case(Distances(5, 3), X, Y).curvature(engine="reverse").hessian()


def test_a_wrong_derivative_is_told_from_its_asymmetry():
    with pytest.raises(Unavailable, match="not those of a symmetric matrix"):
        Case(Bent(5, 3), X, Y, lambda out, y: out).curvature().hessian()


def test_a_network_that_has_learnt_all_is_not_blamed():
    module = nn.Linear(3, 3, bias=False)
    module.weight.data = 18 * torch.eye(3)  # losses of 1e-8, which float32 does not tell from 0
    x = torch.nn.functional.one_hot(Y, 3).float() + 0.01 * X[:, :3]
    operator = Case(module, x, Y).curvature().hessian()
    assert operator.facts.dtype == "float64"
    expected = Case(copy.deepcopy(module).double(), x.double(), Y).dense_hessian()
    torch.testing.assert_close(whole(operator), expected, rtol=1e-7, atol=0)


def test_matrices_of_two_types_are_subtracted_in_the_first_ones():
    single, exact = Dense(np.eye(3)), Dense(3.0 * np.eye(3), torch.float64)
    for one, other, expected in ((single, exact, -2.0), (exact, single, 2.0)):
        found = difference(one, other).matmat(torch.ones(1, 3, dtype=one.dtype))
        assert found.dtype == one.dtype
        assert found[0].tolist() == [expected] * 3


def test_nor_one_that_cannot_compute_in_float64():
    class Single(nn.Linear):
        def forward(self, input):
            return input.float() @ self.weight.T.float()

    module = Single(3, 3, bias=False)
    module.weight.data = 18 * torch.eye(3)
    with pytest.raises(Unavailable, match="not those of a symmetric matrix"):
        Case(module, torch.nn.functional.one_hot(Y, 3).float() + 0.01 * X[:, :3], Y).curvature().hessian()


def test_weights_that_are_all_zero():
    case = Case(perceptron(), X, Y, lambda out, y: (out.square().sum(1), torch.zeros(len(y))))
    with pytest.raises(SoundingError, match="every loss weight"):
        case.curvature().hessian()


def test_memory_is_told_before_anything_is_begun():
    with pytest.raises(Unavailable, match=r"of which memory_gb allows 0.00 GiB; raise it in \[passes.curvature\]"):
        Case(perceptron(), X, Y).curvature(memory_gb=1e-6).hessian()


def test_vectors_that_do_not_fit_are_refused_before_the_network_is_asked():
    curvature = Case(perceptron(), X, Y).curvature(memory_gb=1e-6)
    curvature._model.module.register_forward_pre_hook(lambda *given: pytest.fail("the network was asked"))
    with pytest.raises(Unavailable, match=rf"{LEAST} vectors take .* memory_gb allows"):
        curvature.hessian()


def test_allocations_are_those_that_live_at_once():
    kept = torch.zeros(1000)
    with Allocations() as counted:
        one = kept + 1
        assert counted.live == 4000
        view = one[:10]
        two = one * 2
        del one
        assert counted.live == 8000  # the view holds the first
        del view, two
        kept.mul_(2)
        kept.view(10, 100)
    assert (counted.live, counted.peak) == (0, 8000)


def test_chunks_follow_from_what_was_measured():
    need = need_of((1, 1100, 2200), (2, 1200, 2400))
    assert need == Need(1000, 100, 2000, 200)
    assert chunks_of(10, 0, need, Memory(1e6, 8)) == [range(10)]
    tight = Memory(2000 + 3 * 200 + 13 * 8, 8)
    assert [len(each) for each in chunks_of(10, 0, need, tight)] == [3, 3, 3, 1]
    assert chunks_of(10, 4, Need(0, 1, 0, 1), Memory(1e6, 8)) == [range(4), range(4, 8)]
    assert Memory(1000, 10).vectors_beside(0) == MOST - OWN
    assert Memory(1000, 10).vectors_beside(750) == 25 - OWN
    assert tight.vectors_beside(2600) == LEAST - OWN
    with pytest.raises(Unavailable, match="one batch of 4"):
        chunks_of(10, 4, need, tight)


def test_wrong_vectors_and_patterns():
    curvature = Case(perceptron(), X, Y).curvature()
    with pytest.raises(SoundingError, match=r"expected rows of 66 elements in torch\.float32"):
        curvature.hessian().matmat(torch.zeros(66))
    with pytest.raises(SoundingError, match=r"no parameter's name matches 'conv'; there are: 0\.weight"):
        curvature.hessian(block="conv")
    with pytest.raises(SoundingError, match="no regular expression"):
        curvature.hessian(block="(")
    with pytest.raises(SoundingError, match="no parameter's name matches 'conv'"):
        Case(perceptron(), X, Y).curvature(parameters="conv")


def test_the_subset_depends_on_ids_alone_and_grows():
    few, many = (Case(perceptron(), X, Y).curvature(examples=count).subset for count in (4, 8))
    assert list(many.positions[:4]) == list(few.positions)
    assert sorted(many.positions) != list(many.positions)
    assert few.hash != many.hash
    assert Case(perceptron(), X + 1, Y).curvature(examples=4).subset.hash != few.hash


def test_matrices_share_the_memory_of_graphs(monkeypatch):
    monkeypatch.setattr("sounding.curvature.memory.CHUNK_CPU", 1 << 10)
    case = Case(perceptron(), X, Y)
    curvature = case.curvature()
    before = whole(curvature.hessian())
    hessian = curvature._matrices._sums["hessian", "eval"][0]
    alone, chunks = hessian.held, len(hessian.chunks)
    assert hessian.way.endswith("graph kept")
    assert chunks > 2
    curvature._matrices._shelf.size = 1.7 * alone
    ggn = curvature.ggn()
    held = curvature._matrices._sums["ggn", "eval"][0].held
    assert 0 < hessian.held < alone
    assert 0 < held <= curvature._matrices._shelf.size - hessian.held
    torch.testing.assert_close(whole(curvature.hessian()), before, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(whole(ggn), case.dense_ggn(), rtol=1e-4, atol=1e-6)
