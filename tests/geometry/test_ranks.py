"""Ranks, dead and double units, ranks along a sequence: closed forms and naive twins."""

import math

import pytest
import torch

from sounding.geometry.class_moments import ClassMomentsState
from sounding.geometry.ranks import effective_rank, prefix_ranks, ranks_of, units_of, velocity_and_acceleration


def test_equal_eigenvalues_are_as_many_dimensions():
    found = ranks_of(torch.tensor([4.0] * 7 + [0.0] * 5))
    assert found is not None
    assert (found.effective, found.participation, found.stable) == pytest.approx((7, 7, 7))


def test_two_sizes():
    """Singular values 2 and 1: shares 2/3 and 1/3."""
    found = ranks_of(torch.tensor([4.0, 1.0]))
    assert found is not None
    assert found.effective == pytest.approx(math.exp(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3)))
    assert found.participation == pytest.approx(25 / 17)
    assert found.stable == pytest.approx(5 / 4)


def test_ten_planted_dimensions_are_found_in_sums_of_products():
    """Rounding of float32 products makes no dimensions of its own."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 10, generator=generator) @ torch.randn(10, 256, generator=generator)
    state = ClassMomentsState(buffer=100_000)
    state.update(rows, torch.zeros(3000, dtype=torch.int64))
    moments = state.result()
    assert moments is not None
    found = ranks_of(torch.linalg.eigvalsh(moments.total()), moments.within.noise)
    wide = rows.double() - rows.double().mean(0)
    assert found is not None
    assert found.effective == pytest.approx(float(effective_rank(torch.linalg.svdvals(wide)[:10].square())), rel=1e-5)
    assert found.effective < 10


def test_nothing_has_no_rank():
    assert ranks_of(torch.zeros(3)) is None
    assert ranks_of(torch.zeros(0)) is None
    found = ranks_of(torch.tensor([1.0, -1e-12]))
    assert found is not None
    assert found.effective == pytest.approx(1)


def test_dead_and_double_units():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 6, dtype=torch.float64, generator=generator)
    rows[:, 1] = 3.0  # constant
    rows[:, 4] = 2 - 5 * rows[:, 0]  # the first again, turned round
    rows[:, 5] = rows[:, 2] + 0.5 * rows[:, 3]  # correlated, no double
    found = units_of(torch.cov(rows.T, correction=0), 0.999, 1e-12)
    assert (found.dead, found.duplicate) == (1, 1)
    dead = units_of(torch.zeros(3, 3, dtype=torch.float64), 0.999, 1e-12)
    assert (dead.dead, dead.duplicate) == (3, 0)


@pytest.mark.parametrize("width", [5, 40])
def test_ranks_of_prefixes_are_those_of_their_singular_values(width: int):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 24, width, generator=generator) + 2
    ends, found = prefix_ranks(states, 4)
    assert ends == [4, 8, 12, 16, 20, 24]
    for row, sequence in enumerate(states.double()):
        for column, end in enumerate(ends):
            prefix = sequence[:end] - sequence[:end].mean(0)
            expected = effective_rank(torch.linalg.svdvals(prefix).square())
            assert float(found[row, column]) == pytest.approx(float(expected), rel=1e-4)


def test_velocity_is_the_rise_above_the_mean_so_far():
    velocity, acceleration = velocity_and_acceleration(torch.tensor([[1.0, 2.0, 6.0, 4.0]]))
    assert velocity.tolist() == [[1.0, 4.5, 1.0]]
    assert acceleration.tolist() == [[3.5, -3.5]]
