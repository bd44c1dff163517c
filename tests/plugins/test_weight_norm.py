"""Norms of weights against analytic values and naive float64 twins."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.numbers import CHUNK, chunks, sum_of_squares
from sounding.passes import Weights, layers_of, magnitudes
from sounding.passes.spectral import largest_singular_value
from sounding.testing import Trial
from sounding_plugins.weight_norm import _spectral, weight_norm


def values(findings: Any, metric: str):
    return {each.part: each.value for each in findings if isinstance(each, Reading) and each.metric == metric}


def test_analytic_values(sounding_plugin: Trial):
    state = {"a.weight": torch.tensor([[3.0, 0.0], [0.0, -4.0]]), "a.bias": torch.full((4,), 6.0)}
    found = sounding_plugin(weight_norm, checkpoint={"model": state})
    assert values(found, "frobenius") == {"a.weight": 5.0, "a.bias": 12.0}
    assert values(found, "rms") == {"a.weight": 2.5, "a.bias": 6.0}
    assert values(found, "max_abs") == {"a.weight": 4.0, "a.bias": 6.0}
    assert values(found, "zeros") == {"a.weight": 0.5, "a.bias": 0.0}
    assert values(found, "nans") == values(found, "infinities") == {"a.weight": 0.0, "a.bias": 0.0}
    assert values(found, "min") == {"a.weight": -4.0, "a.bias": 6.0}
    assert values(found, "max") == {"a.weight": 3.0, "a.bias": 6.0}
    assert values(found, "spectral") == pytest.approx({"a.weight": 4.0})
    assert values(found, "stable_rank") == pytest.approx({"a.weight": 25 / 16})
    assert values(found, "dead_rows") == {"a.weight": 0.0}
    assert values(found, "layer_total") == {"a": 13.0}
    assert values(found, "total") == {"": 13.0}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_against_a_naive_float64_twin(sounding_plugin: Trial, dtype: torch.dtype):
    tensor = torch.randn(257, 129, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor}})
    twin = float(np.sqrt(np.sum(tensor.double().numpy() ** 2)))
    assert values(found, "frobenius")["w"] == pytest.approx(twin, rel=1e-12 if dtype == torch.float64 else 1e-7)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats(sounding_plugin: Trial, dtype: torch.dtype):
    tensor = torch.tensor([[3.0, -4.0], [0.0, 0.0]]).to(dtype)
    found = sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor}})
    assert values(found, "frobenius") == {"w": 5.0}
    assert values(found, "max_abs") == {"w": 4.0}


@pytest.mark.filterwarnings("ignore")  # of torch's prototypes
def test_what_is_no_plain_tensor_is_skipped_by_its_name(sounding_plugin: Trial):
    state = {
        "w": torch.tensor([3.0, 4.0]), "mask": torch.eye(2).to_sparse(), "spectrum": torch.ones(2, dtype=torch.cfloat),
        "small": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "count": torch.tensor(3),
    }  # fmt: skip
    found = sounding_plugin(weight_norm, checkpoint={"model": state})
    assert {each.part: each.reason for each in found if isinstance(each, Skip)} == {
        "mask": "a sparse tensor, which is not read",
        "small": "a quantized tensor, which is not read",
        "spectrum": "complex, which is not measured",
    }
    assert values(found, "total") == {"": 5.0}


def test_empty_scalar_strided_and_tied_tensors(sounding_plugin: Trial):
    shared = torch.arange(24.0)
    state = {
        "scalar": torch.tensor(-2.0), "empty": torch.zeros(0, 3), "turned": shared.view(4, 6).t(),
        "tied": shared.view(4, 6).t(), "every_second": shared[::2], "wide": torch.tensor([1.5]).expand(4),
    }  # fmt: skip
    found = sounding_plugin(weight_norm, checkpoint={"model": state})
    squares = {"scalar": 4.0, "turned": sum(n * n for n in range(24)), "wide": 9.0,
               "every_second": sum(n * n for n in range(0, 24, 2))}  # fmt: skip
    assert values(found, "frobenius") == {name: pytest.approx(each**0.5, rel=1e-14) for name, each in squares.items()}
    assert values(found, "total")[""] == pytest.approx(sum(squares.values()) ** 0.5, rel=1e-14)


def test_large_float32_sums_do_not_lose_digits():
    tensor = torch.full((3 * CHUNK + 7,), 0.1)
    assert sum_of_squares(tensor) == pytest.approx(tensor.numel() * float(tensor[0]) ** 2, rel=1e-12)


def test_the_norm_of_forty_million_elements_is_right_where_torchs_own_is_not():
    tensor = torch.full((40_000_000,), 0.1)
    exact = math.sqrt(tensor.numel()) * float(tensor[0])
    assert magnitudes.magnitudes(Weights({"w": tensor}))["w"].norm == pytest.approx(exact, rel=1e-6)
    assert float(tensor.norm()) != pytest.approx(exact, rel=1e-3)


def test_chunks_cover_everything_once():
    tensor = torch.arange(2 * CHUNK + 5)
    assert torch.equal(torch.cat(list(chunks(tensor))).long(), tensor)


def test_tied_weights_and_buffers_count_once_or_not_at_all(sounding_plugin: Trial):
    shared = torch.full((2, 2), 1.0)
    state = {
        "embed.weight": shared,
        "head.weight": shared,
        "bn.weight": torch.full((5,), 1.0),
        "bn.running_mean": torch.full((5,), 100.0),
        "bn.running_var": torch.full((5,), 100.0),
        "bn.num_batches_tracked": torch.tensor(7),
        "attn.bias": torch.ones(1, 1, 8, 8),
    }
    found = sounding_plugin(weight_norm, checkpoint={"model": state})
    assert set(values(found, "frobenius")) == {"embed.weight", "bn.weight"}
    assert values(found, "total") == {"": 3.0}


def test_nonfinite_weights_are_counted_and_said(sounding_plugin: Trial):
    tensor = torch.tensor([1.0, math.nan, math.inf, 0.0])
    found = sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor, "v": torch.ones(1)}})
    assert values(found, "nans") == {"w": 0.25, "v": 0.0}
    assert values(found, "infinities") == {"w": 0.25, "v": 0.0}
    assert math.isnan(values(found, "total")[""])


def test_infinities_are_counted_in_every_chunk(sounding_plugin: Trial):
    tensor = torch.zeros(2 * CHUNK)
    tensor[0] = math.inf
    tensor[-1] = -math.inf
    assert values(sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor}}), "infinities") == {
        "w": 2 / tensor.numel()
    }


def test_matrices_only_leaves_vectors_out_but_not_out_of_the_total(sounding_plugin: Trial):
    state = {"a.weight": torch.tensor([[3.0]]), "a.bias": torch.tensor([4.0])}
    found = sounding_plugin(weight_norm, checkpoint={"model": state}, matrices_only=True)
    assert values(found, "frobenius") == {"a.weight": 3.0}
    assert values(found, "total") == {"": 5.0}


def test_without_parameters_it_skips(sounding_plugin: Trial):
    found = sounding_plugin(weight_norm, checkpoint={"model": {"position_ids": torch.arange(3)}})
    assert [type(each) for each in found] == [Skip]


def test_a_large_file_is_gone_through_without_holding_it(sounding_plugin: Trial, monkeypatch: pytest.MonkeyPatch):
    anonymous: list[int] = []
    blocks = magnitudes._blocks
    readings = 0

    def watched(*of: Any) -> Iterator[tuple[int, Any]]:
        nonlocal readings
        readings += 1
        for index, block in enumerate(blocks(*of)):
            yield block
            if index % 32 == 0:
                status = Path("/proc/self/status").read_text()
                anonymous.append(int(status.partition("RssAnon:")[2].split()[0]) << 10)

    monkeypatch.setattr(magnitudes, "_blocks", watched)
    tensor = torch.zeros(4 << 10, 4 << 10)  # 64 MiB
    sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor}}, spectral=False)
    assert len(anonymous) > 3
    assert max(anonymous) - min(anonymous) < tensor.nbytes / 8
    assert readings == 2  # one in each of the trial's two runs: sums and extremes come together


def test_spectral_norms_are_bounded_and_say_when_they_have_not_converged(sounding_plugin: Trial):
    tensor = torch.randn(90, 200, generator=torch.Generator().manual_seed(1))
    twin = float(torch.linalg.svdvals(tensor.double())[0])
    (found,) = named(sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor}}), "spectral")
    assert found.low <= twin * (1 + 1e-6)
    assert twin <= found.high
    assert found.value == pytest.approx(twin, rel=1e-5)
    assert found.quality == "ok"
    flat = magnitudes.magnitude_of(tensor)
    poor = largest_singular_value(tensor, most=2)
    readings: Any = list(_spectral(flat, poor, 1e-4, "w", layers_of({"w": (90, 200)})["w"]))
    assert {each.quality for each in readings} == {"unconverged"}
    rank = flat.squares / twin**2
    assert (readings[0].low, readings[0].high) == (poor.sigma, None)
    assert readings[0].low < twin
    assert rank < readings[1].high
    assert readings[1].low is None


def named(findings: Any, metric: str) -> list[Any]:
    return [each for each in findings if isinstance(each, Reading) and each.metric == metric]


def test_layers_and_scale_invariant_weights_are_summed(sounding_plugin: Trial):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    found = sounding_plugin(weight_norm, model=model)
    norms = values(found, "frobenius")
    layers = {part: math.hypot(*(norms[f"{part}.{leaf}"] for leaf in ("weight", "bias"))) for part in ("0", "1", "3")}
    assert values(found, "layer_total") == pytest.approx(layers)
    (total,) = named(found, "scale_invariant_total")
    assert total.value == pytest.approx(norms["0.weight"])
    assert total.kind == "structure"
    found = sounding_plugin(weight_norm, checkpoint={"model": {"w": torch.ones(2)}})
    assert named(found, "scale_invariant_total") == []
