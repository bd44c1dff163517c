"""Closed forms of imbalanced deep linear networks against minima that were searched for."""

import math

import pytest
import torch

from sounding.geometry.imbalance import DeepLinear, dead_above

COUNTS = (12, 6, 3)
DECAYS = {1: (2e-2, 2e-2), 2: (2e-3, 2e-2), 3: (1e-3, 1e-2)}


def minimum(layers: int, decay: float, feature_decay: float, counts: tuple[int, ...], seed: int = 0):
    """Weights and class-mean features at a minimum of the loss, by L-BFGS from random values."""
    generator = torch.Generator().manual_seed(seed)
    classes, width, examples = len(counts), 4, sum(counts)
    targets = torch.eye(classes, dtype=torch.float64)[
        torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))
    ].T
    shapes = [(width, width)] * (layers - 1) + [(classes, width), (width, examples)]
    values = [(0.4 * torch.randn(shape, dtype=torch.float64, generator=generator)).requires_grad_() for shape in shapes]
    optimizer = torch.optim.LBFGS(values, lr=1, max_iter=150, tolerance_grad=1e-8, tolerance_change=1e-12,
                                  history_size=20, line_search_fn="strong_wolfe")  # fmt: skip

    def product() -> torch.Tensor:
        whole = values[0]
        for each in values[1:-1]:
            whole = each @ whole
        return whole

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (product() @ values[-1] - targets).square().sum() / (2 * examples)
        loss = loss + decay / 2 * sum(each.square().sum() for each in values[:-1])
        loss = loss + feature_decay / 2 * values[-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    loss = float(closure().detach())
    means = torch.stack([each.mean(1) for each in values[-1].detach().split(list(counts), dim=1)])
    return loss, means, product().detach()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_closed_form_is_where_optimisation_ends(layers: int):
    decay, feature_decay = DECAYS[layers]
    theory = DeepLinear(layers, decay, feature_decay, COUNTS)
    _, means, product = minimum(layers, decay, feature_decay, COUNTS)
    assert min(theory.singular_values()) > 0
    assert torch.linalg.vector_norm(means, dim=1).tolist() == pytest.approx(theory.mean_norms(), rel=2e-3)
    assert (product @ means.T).diagonal().tolist() == pytest.approx(theory.answers(), rel=2e-3)
    powers = [each**layers for each in theory.singular_values()]
    assert torch.linalg.vector_norm(product, dim=1).tolist() == pytest.approx(powers, rel=2e-3)


def test_one_layer_has_an_explicit_answer():
    theory = DeepLinear(1, 0.02, 0.03, COUNTS)
    for count, value in zip(COUNTS, theory.singular_values(), strict=True):
        assert value**2 == pytest.approx(math.sqrt(count * 0.03 / 0.02) - 21 * 0.03)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_class_below_the_threshold_is_given_up(layers: int):
    """The scalar problem 1/(x^M + 1) + (b/n)x has its minimum at 0 exactly beyond the threshold."""
    feature_decay = 1e-2
    for ratio, dies in ((0.98, False), (1.02, True)):
        counts = (400, 10)
        slope = ratio * dead_above(layers) * 10
        unit = (410 * feature_decay) ** (1 / layers)
        decay = slope / (layers * 410 * unit)
        theory = DeepLinear(layers, decay, feature_decay, counts)
        assert (theory.singular_values()[1] == 0) == dies
        grid = torch.linspace(0, 20, 200_001, dtype=torch.float64)
        cost = 1 / (grid**layers + 1) + slope / 10 * grid
        assert (float(grid[cost.argmin()]) == 0) == dies
        assert theory.singular_values()[0] > 0
        assert (theory.mean_norms()[1] == 0) == dies
