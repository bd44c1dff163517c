"""Sums and extremes of parameters, row by row, against naive float64 twins."""

import math
from typing import Any

import making
import numpy as np
import pytest
import torch

from sounding.numbers import CHUNK
from sounding.passes import layers_of
from sounding.passes.magnitudes import magnitude_of, magnitudes
from sounding.passes.spectral import largest_singular_value, spectral_norms
from sounding.passes.weights import Weights


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "shape",
    [
        *[(7, 3), (300, 700), (5, 2 * CHUNK + 3), (3, 2, 3, 3), (513,), (CHUNK * 2 + 1,), (1, 1), (0, 4), ()],
        *[(3, 1021), (2, 1041), (40, 1000)],  # a prime, one whose divisors are odd, and one in two equal parts
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64])
def test_rows_against_a_naive_twin(shape: tuple[int, ...], dtype: torch.dtype):
    tensor = drawn(*shape).to(dtype)
    found = magnitude_of(tensor)
    assert found.count == tensor.numel()
    if tensor.numel():
        exact = tensor.double().reshape(shape[0] if len(shape) > 1 else 1, -1).square().sum(1).numpy()
        assert found.rows == pytest.approx(exact, rel=2.5e-7 if dtype != torch.float64 else 1e-12)
        assert found.squares == pytest.approx(exact.sum(), rel=2e-7)
        alone = magnitude_of(tensor).rows
        assert (found.low, found.high) == (float(tensor.double().min()), float(tensor.double().max()))
        assert np.array_equal(found.rows, alone)  # whether or not anyone asked for extremes
    else:
        assert (found.norm, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool])
def test_whole_numbers(dtype: torch.dtype):
    tensor = (drawn(30, 70) * 50).abs().to(dtype)
    found = magnitude_of(tensor)
    exact = tensor.long().square().sum(1).double().numpy()
    assert found.rows == pytest.approx(exact, rel=1e-7)
    assert found.zeros == int((tensor == 0).sum())
    large = torch.full((3, 2), (1 << 30) + 1, dtype=torch.int64)
    assert magnitude_of(large).high == (1 << 30) + 1


def test_counts():
    tensor = torch.tensor([[0.0, -0.0, 1.0], [math.nan, math.inf, -math.inf]])
    found = magnitude_of(tensor)
    assert (found.zeros, found.nans, found.infinities) == (2, 1, 2)
    assert math.isnan(found.low)
    assert math.isnan(found.max_abs)
    assert math.isnan(found.norm)
    assert (magnitude_of(torch.tensor([-3.0, 2.0])).max_abs, magnitude_of(torch.tensor([math.inf])).max_abs) == (
        3.0,
        math.inf,
    )


def test_dead_rows_are_those_far_below_the_others():
    tensor = drawn(10, 64).float()
    tensor[3] = 0.0
    tensor[7] *= 1e-8
    tensor[8] *= 1e-4  # small, alive
    assert magnitude_of(tensor).dead_rows == 2
    assert magnitude_of(torch.zeros(4, 4)).dead_rows == 4


@pytest.mark.parametrize("scale", [1e-25, 1e-21, 1e22])
def test_rows_that_float32_cannot_square(scale: float):
    matrix = (drawn(4, 600) * scale).float()
    matrix[2] = 0.0
    right = matrix.double().square().sum(1).numpy()
    assert magnitude_of(matrix).rows == pytest.approx(right, rel=1e-6)
    assert magnitude_of(matrix.reshape(1, -1)).squares == pytest.approx(right.sum(), rel=1e-6)


def test_slices_are_runs_of_rows():
    tensor = torch.tensor([[3.0], [4.0], [6.0], [8.0]])
    assert magnitude_of(tensor).slice_norms(2).tolist() == [5.0, 10.0]
    found = magnitudes(Weights({"a": tensor, "b": torch.ones(2, 2)}))
    assert (found.norm, found.count) == (math.sqrt(129.0), 8)


# --- spectral norms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (1, 50), (50, 1), (8, 8), (1, 1)])
def test_the_largest_singular_value(shape: tuple[int, int]):
    matrix = drawn(*shape)
    found = largest_singular_value(matrix, tolerance=1e-9, most=200)
    left, values, right = torch.linalg.svd(matrix)
    assert found.sigma == pytest.approx(float(values[0]), rel=1e-12)
    shorter = right[0] if shape[0] >= shape[1] else left[:, 0]
    assert abs(float(torch.from_numpy(found.vector) @ shorter)) == pytest.approx(1.0, rel=1e-9)


def test_the_residual_is_that_of_the_vector():
    matrix = drawn(60, 50)
    found = largest_singular_value(matrix, most=5)
    v = torch.from_numpy(found.vector)
    residual = float((matrix.T @ (matrix @ v) - found.sigma**2 * v).norm()) / found.sigma**2
    assert found.residual == pytest.approx(residual, rel=1e-8)
    assert found.residual > 1e-3
    assert found.sigma < float(torch.linalg.svdvals(matrix)[0])


def test_degenerate_matrices():
    assert largest_singular_value(torch.zeros(3, 4)).sigma == 0.0
    hidden = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    assert largest_singular_value(hidden, np.array([1.0, 0.0])).sigma == pytest.approx(2.0)
    assert largest_singular_value(torch.ones(3, 4)).sigma == pytest.approx(math.sqrt(12.0))
    assert math.isnan(largest_singular_value(torch.full((2, 2), math.nan)).sigma)


def test_the_next_checkpoint_starts_from_the_last_ones_vector_and_the_same_one_repeats_itself():
    matrix = drawn(300, 200).float()
    first, second = (making.checkpoint(step, run="warm") for step in (1, 2))
    cold = spectral_norms(Weights({"w": matrix}), first, "")["w"]
    again = spectral_norms(Weights({"w": matrix}), first, "")["w"]
    assert (cold.sigma, cold.iterations) == (again.sigma, again.iterations)
    moved = matrix + 0.003 * drawn(300, 200, seed=1).float()
    warm = spectral_norms(Weights({"w": moved}), second, "")["w"]
    elsewhere = spectral_norms(Weights({"w": moved}), making.checkpoint(2, run="another"), "")["w"]
    assert warm.iterations < 0.7 * elsewhere.iterations
    assert warm.sigma == pytest.approx(elsewhere.sigma, rel=1e-6)
    assert warm.sigma == pytest.approx(float(torch.linalg.svdvals(moved.double())[0]), rel=1e-6)
    repeated = spectral_norms(Weights({"w": moved}), second, "")["w"]
    assert repeated.sigma == warm.sigma


def test_only_matrices_have_one():
    found = spectral_norms(Weights({"w": torch.ones(2, 3, 4), "b": torch.ones(3)}), making.checkpoint(1, run="few"), "")
    assert list(found) == ["w"]
    assert found["w"].sigma == pytest.approx(math.sqrt(24.0))
    assert "b" not in found
    with pytest.raises(KeyError):
        _ = found["b"]


# --- layers ---------------------------------------------------------------------------------------------------------


def test_layers_of_usual_names():
    names: dict[str, Any] = {
        "transformer.wte.weight": ("transformer.wte", None, "embedding"),
        "transformer.h.0.attn.c_attn.weight": ("transformer.h.0", 0, "attention"),
        "transformer.h.0.mlp.c_fc.bias": ("transformer.h.0", 0, "bias"),
        "transformer.h.10.ln_1.weight": ("transformer.h.10", 1, "norm"),
        "transformer.h.2.mlp.c_fc.weight": ("transformer.h.2", 2, "mlp"),
        "lm_head.weight": ("lm_head", None, "head"),
        "w": ("w", None, "matrix"),
    }
    for ordered, depth in ((True, 1), (False, 2)):
        found = layers_of(dict.fromkeys(names, (2, 2)), ordered=ordered)
        assert {name: (each.name, each.kind) for name, each in found.items()} == {
            name: (layer, kind) for name, (layer, _, kind) in names.items()
        }
        assert found["transformer.h.10.ln_1.weight"].depth == depth
    resnet = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer2.1.bn1.bias")
    assert [each.depth for each in layers_of(dict.fromkeys(resnet, (2, 2, 3, 3))).values()] == [None, None, 0, 1, 2]
    assert layers_of({"conv1.weight": (2, 2, 3, 3)})["conv1.weight"].kind == "conv"
