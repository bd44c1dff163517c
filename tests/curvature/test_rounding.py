"""Small networks in float32 beside their matrices in float64: what bounds and standard errors allow for rounding."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from curvature.dense import Dense, like_a_network, with_eigenvalues
from curvature.nets import Case
from torch import nn
from torch.nn import functional as F

from sounding.curvature.eigenvalues import Wanted
from sounding.curvature.krylov import extremes, random_vector, starting_vector
from sounding.curvature.operator import LinearOperator, difference
from sounding.curvature.probes import Traces, traces
from sounding.passes import Curvature

SEEDS = (18, 30, 48, 52)  # of the first 60, those in which rounding is felt most, but for logits in the hundreds
EXACT = Wanted(tolerance=1e-6, both_ends=True)  # where nothing but rounding is left to bound
ACTIVATIONS = (nn.Tanh, nn.GELU, nn.ReLU, nn.SiLU)
MATRICES = ("hessian", "ggn", "fisher", "residual")


def network(seed: int) -> Case:
    """Two or three small layers of any width, at weights and inputs of several sizes, with either loss."""
    torch.manual_seed(seed)
    features, width, classes, examples = (int(torch.randint(*each, ())) for each in ((2, 5), (2, 5), (2, 4), (8, 24)))
    act = ACTIVATIONS[seed % 4]()
    middle = [nn.Linear(width, width), act] if seed % 2 else []
    module = nn.Sequential(nn.Linear(features, width), act, *middle, nn.Linear(width, classes))
    weight, size = 10 ** (2 * torch.rand(2) - 1)
    with torch.no_grad():
        for each in module.parameters():
            each.mul_(1 + weight if each.ndim > 1 else 1.0)
    inputs, targets = size * torch.randn(examples, features), torch.randint(classes, (examples,))
    loss = None if seed % 3 else lambda out, y: (out - F.one_hot(y, out.shape[-1])).square().mean(1)
    return Case(module, inputs, targets, loss)


def exact(case: Case) -> dict[str, np.ndarray]:
    twin = Case(copy.deepcopy(case.module).double(), case.inputs.double(), case.targets, case.loss)
    found = {name: getattr(twin, f"dense_{name}")().numpy() for name in ("hessian", "ggn", "fisher")}
    return {**found, "residual": found["hessian"] - found["ggn"]}


def operator_of(curvature: Curvature, matrix: str) -> LinearOperator:
    if matrix == "residual":
        return difference(curvature.hessian(), curvature.ggn())
    operator: LinearOperator = getattr(curvature, matrix)()
    return operator


class Compared(NamedTuple):
    matrix: str
    excess: list[float]  # distances to the nearest true eigenvalue, over the bounds
    traces: Traces
    truth: np.ndarray


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    found = []
    for seed in SEEDS:
        case = network(seed)
        curvature, truths = case.curvature(), exact(case)
        for matrix in MATRICES:
            operator, truth = operator_of(curvature, matrix), np.linalg.eigvalsh(truths[matrix])
            here = extremes(operator, starting_vector(curvature.gradient(), operator), EXACT)
            excess = [float(np.abs(truth - each.value).min() / each.bound) for each in (*here.top, *here.bottom)]
            found.append(Compared(matrix, excess, traces(operator, here), truth))
    return found


def test_no_value_is_outside_its_bound(compared: list[Compared]):
    excess = {(each.matrix, place): max(each.excess) for place, each in enumerate(compared)}
    assert {which: by for which, by in excess.items() if by > 1.0} == {}
    assert sum(len(each.excess) for each in compared) == 6 * len(compared)
    assert max(excess.values()) > 0.5  # so that no much smaller allowance would do


def test_a_trace_is_no_surer_than_rounding_allows(compared: list[Compared]):
    for each in compared:
        assert abs(each.traces.trace.value - each.truth.sum()) <= 5 * each.traces.trace.stderr
        assert abs(each.traces.frobenius.value - np.linalg.norm(each.truth)) <= 5 * each.traces.frobenius.stderr


def test_what_cancels_leaves_the_rounding_of_its_parts():
    rounded = with_eigenvalues(like_a_network(0, 100))
    nothing = difference(rounded, Dense(rounded.exact, torch.float64))
    found = extremes(nothing, random_vector(nothing, 0))
    assert found.ending == "converged"
    assert found.products < 10
    assert all(0.0 < abs(each.value) <= each.bound < 1e-3 for each in found.top)
    assert max(each.residual for each in found.top) < 1e-5
    single, double = Dense(np.diag([2.0, 0.0])), Dense(np.diag([1.0, 0.0]), torch.float64)
    for one, other, length in ((single, double, 2.0), (double, single, 2.0**30)):  # in epsilons of the first
        operator = difference(one, other)
        operator.matmat(torch.eye(2, dtype=one.dtype))
        assert operator.cancelled == length
