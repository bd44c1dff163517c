"""Bounds of logits: attained by inputs made for it, and never exceeded by any others."""

import math
from typing import Any

import pytest
import torch

from sounding.logit_bounds import Affine, largest_product, product_bound, rotated_bound, row_bounds


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ball(width: int, radius: float, count: int = 4000) -> torch.Tensor:
    rows = drawn(count, width, seed=9)
    return radius * rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 4)])
def test_the_largest_product_is_the_singular_value(shape: tuple[int, int]):
    one, two = drawn(*shape), drawn(*shape, seed=1)
    assert largest_product(one, two) == pytest.approx(float(torch.linalg.matrix_norm(one.T @ two, 2)), rel=1e-12)
    assert largest_product(0 * one, two) == 0.0


@pytest.mark.parametrize("shifted", [0.0, 1.0])
def test_no_inputs_exceed_the_bound_and_some_attain_it(shifted: float):
    query = Affine(drawn(4, 6), shifted * drawn(4, seed=2), 1.5)
    key = Affine(drawn(4, 6, seed=1), shifted * drawn(4, seed=3), 2.5)
    queries = ball(6, 1.5) @ query.matrix.T + query.shift
    keys = ball(6, 2.5).flip(0) @ key.matrix.T + key.shift
    measured = float((queries @ keys.T).abs().max())
    bound = product_bound(query, key)
    assert measured <= bound <= rotated_bound(query, key)
    left, values, right = torch.linalg.svd(query.matrix.T @ key.matrix)
    attained = float((query.matrix @ (1.5 * left[:, 0])) @ (key.matrix @ (2.5 * right[0])))
    assert attained == pytest.approx(1.5 * 2.5 * float(values[0]))
    if not shifted:
        assert bound == pytest.approx(attained)


def test_any_rotation_stays_within_its_bound_and_one_attains_it():
    query, key = (
        Affine(drawn(4, 6), torch.zeros(4).double(), 1.0),
        Affine(drawn(4, 6, seed=1), torch.zeros(4).double(), 1.0),
    )
    bound = rotated_bound(query, key)
    longest = [torch.linalg.svd(each.matrix) for each in (query, key)]
    one, two = (each[0][:, 0] for each in longest)
    assert float(longest[0][1][0] * longest[1][1][0]) == pytest.approx(bound)
    assert product_bound(query, key) < bound
    # The reflection that takes one axis to the other is orthogonal: no map of that kind can be longer.
    mirror = torch.eye(4).double() - 2 * torch.outer(one - two, one - two) / ((one - two) ** 2).sum()
    assert float(one @ mirror @ two) == pytest.approx(1.0)


def test_norms_over_queries_and_keys_bound_them_by_their_gains():
    gain, other = torch.tensor([1.0, -3.0]).double(), torch.tensor([2.0, 0.5]).double()
    none = torch.zeros(2).double()
    one, two = Affine(gain, none, math.sqrt(2)), Affine(other, none, math.sqrt(2))
    assert product_bound(one, two) == pytest.approx(2 * 2.0)  # all in the first axis: √2·1·√2·2
    assert rotated_bound(one, two) == pytest.approx(2 * 3.0 * 2.0)
    shifted = Affine(gain, torch.tensor([0.5, 0.5]).double(), math.sqrt(2))
    rows = ball(2, math.sqrt(2))
    measured = float(((rows * gain + 0.5) @ (rows * other).T).abs().max())
    assert measured <= product_bound(shifted, two) <= rotated_bound(shifted, two)


@pytest.mark.parametrize("bias", [None, torch.tensor([1.0, -4.0, 0.0])])
def test_a_row_attains_its_bound(bias: Any):
    rows, gain, shift = drawn(3, 5), drawn(5, seed=1).abs(), drawn(5, seed=2)
    bounds = row_bounds(rows, bias, gain, shift)
    fixed = rows @ shift + (0 if bias is None else bias)
    for row, start, bound in zip(rows * gain, fixed, bounds, strict=True):
        best = math.sqrt(5) * row / row.norm() * start.sign()
        assert abs(float(row @ best + start)) == pytest.approx(float(bound))
    random = ball(5, math.sqrt(5)) * gain + shift
    assert (((random @ rows.T) + (0 if bias is None else bias)).abs().amax(0) <= bounds).all()
