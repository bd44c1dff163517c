"""Whole matrices beside their closed forms, and beside float64 twins by every engine."""

import math

import pytest
import torch
from curvature.nets import Case, whole
from torch import nn
from torch.nn import functional as F

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3
ENGINES = ("reverse", "forward")
MATRICES = ("hessian", "ggn", "fisher")


def linear(outputs: int = 3, bias: bool = False) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(5, outputs, bias=bias).double()


@pytest.mark.parametrize("engine", ENGINES)
def test_linear_regression(engine):
    targets = X @ torch.randn(5, 3, dtype=torch.float64)
    curvature = Case(linear(), X, targets, lambda out, y: (out - y).square().mean(1)).curvature(engine=engine)
    expected = torch.kron(torch.eye(3, dtype=torch.float64), X.T @ X) * 2 / (12 * 3)
    torch.testing.assert_close(whole(curvature.hessian()), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(whole(curvature.ggn()), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_softmax_regression(engine):
    curvature = Case(linear(), X, Y).curvature(engine=engine)
    shares = (X @ linear().weight.T).softmax(1)
    inner = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
    expected = torch.einsum("nab,nc,nd->acbd", inner, X, X).reshape(15, 15) / 12
    torch.testing.assert_close(whole(curvature.hessian()), expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(whole(curvature.ggn()), expected, rtol=1e-11, atol=1e-13)
    slopes = ((shares - F.one_hot(Y))[:, :, None] * X[:, None, :]).reshape(12, 15)
    torch.testing.assert_close(whole(curvature.fisher()), slopes.T @ slopes / 12, rtol=1e-11, atol=1e-13)


def test_logistic_regression():
    signs = torch.where(Y == 0, 1.0, -1.0).double()
    curvature = Case(linear(1), X, signs, lambda out, y: F.softplus(-y * out[:, 0])).curvature()
    s = torch.sigmoid(X @ linear(1).weight[0])
    expected = (X.T * (s * (1 - s))) @ X / 12
    torch.testing.assert_close(whole(curvature.hessian()), expected, rtol=1e-11, atol=1e-13)
    slopes = -(torch.sigmoid(-signs * (X @ linear(1).weight[0])) * signs)[:, None] * X
    torch.testing.assert_close(whole(curvature.fisher()), slopes.T @ slopes / 12, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(curvature.gradient(), slopes.mean(0), rtol=1e-11, atol=1e-13)


def test_two_layers_of_one_weight():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    for each, value in zip(module.parameters(), (2.0, 0.5), strict=True):
        each.data.fill_(value)
    x = torch.tensor([[1.5]], dtype=torch.float64)
    curvature = Case(module, x, x * 1.0, lambda out, y: (out - y).square()[:, 0]).curvature()
    values = torch.linalg.eigvalsh(whole(curvature.hessian()))
    torch.testing.assert_close(values, torch.tensor([0.0, 2 * 1.5**2 * (4 + 0.25)], dtype=torch.float64))
    assert curvature.loss() == pytest.approx(0.0, abs=1e-15)


def test_deep_linear_network_at_interpolation():
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    module = module.double()
    case = Case(module, X, module(X).detach(), lambda out, y: (out - y).square().mean(1))
    outer = torch.autograd.functional.jacobian(case.outputs, case.flat()).reshape(24, -1)
    expected = outer.T @ outer * 2 / (12 * 2)
    curvature = case.curvature()
    torch.testing.assert_close(whole(curvature.hessian()), expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(whole(curvature.ggn()), expected, rtol=1e-10, atol=1e-13)


def perceptron():
    torch.manual_seed(1)
    return Case(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double(), X, Y)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_element(matrix, engine):
    case = perceptron()
    found = whole(getattr(case.curvature(engine=engine), matrix)())
    torch.testing.assert_close(found, getattr(case, f"dense_{matrix}")(), rtol=1e-10, atol=1e-13)


def test_float32_is_right_to_its_precision():
    case = perceptron()
    single = Case(perceptron().module.float(), X.float(), Y)
    for matrix in MATRICES:
        operator = getattr(single.curvature(), matrix)()
        expected = getattr(case, f"dense_{matrix}")()
        assert operator.dtype == torch.float32
        assert float((whole(operator).double() - expected).norm() / expected.norm()) < 2e-6


def test_half_precision_is_raised():
    exact = perceptron().module.to(torch.bfloat16)
    operator = Case(exact, X.float(), Y).curvature().hessian()
    expected = Case(perceptron().module.to(torch.bfloat16).double(), X, Y).dense_hessian()
    assert operator.dtype == torch.float32
    assert exact[0].weight.dtype == torch.bfloat16
    assert float((whole(operator).double() - expected).norm() / expected.norm()) < 2e-6


def test_blocks_are_parts_of_the_whole():
    curvature = perceptron().curvature()
    for matrix in MATRICES:
        full = whole(getattr(curvature, matrix)())
        block = getattr(curvature, matrix)(block=r"^2\.")
        assert block.layout.names == ("2.weight", "2.bias")
        torch.testing.assert_close(whole(block), full[-24:, -24:], rtol=1e-12, atol=1e-15)


def test_blocks_without_graphs():
    curvature = perceptron().curvature()
    kept = [*range(35, 42), *range(63, 66)]
    expected = whole(curvature.hessian())[kept][:, kept]
    for summed, _ in curvature._matrices._sums.values():
        while summed.release():
            pass
    operator = curvature.hessian(block="bias")
    assert "0 of 1" in operator.facts.engine
    torch.testing.assert_close(whole(operator), expected, rtol=1e-12, atol=1e-15)


def test_gradient_and_loss_along_an_offset():
    case = perceptron()
    curvature = case.curvature()
    flat = case.flat().requires_grad_()
    loss = case.mean(flat)
    (expected,) = torch.autograd.grad(loss, flat)
    flat, loss = flat.detach(), loss.detach()
    torch.testing.assert_close(curvature.gradient(), expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(curvature.gradient(block=r"^0\."), expected[:42], rtol=1e-12, atol=1e-15)
    assert curvature.loss() == pytest.approx(float(loss), rel=1e-12)
    offset = torch.randn(curvature.layout.size, dtype=torch.float64)
    assert curvature.loss_at(offset) == pytest.approx(float(case.mean(flat + offset)), rel=1e-12)
    assert curvature.loss_at(torch.zeros_like(offset)) == pytest.approx(curvature.loss(), rel=1e-12)


def test_flat_and_named_are_inverse():
    layout = perceptron().curvature().layout
    flat = torch.randn(layout.size)
    assert torch.equal(layout.flat(layout.named(flat)), flat)
    assert {name: tuple(each.shape) for name, each in layout.named(flat).items()} == {
        "0.weight": (7, 5), "0.bias": (7,), "2.weight": (3, 7), "2.bias": (3,),
    }  # fmt: skip


def test_all_parameters_or_a_pattern_of_them():
    case = perceptron()
    full = case.dense_hessian()
    case.module[0].weight.requires_grad_(False)
    assert math.prod(case.curvature().layout.shapes[0]) == 7
    torch.testing.assert_close(whole(case.curvature(parameters="all").hessian()), full, rtol=1e-10, atol=1e-13)
    picked = whole(case.curvature(parameters=r"^0\.weight").hessian())
    torch.testing.assert_close(picked, full[:35, :35], rtol=1e-10, atol=1e-13)
    assert not case.module[0].weight.requires_grad
