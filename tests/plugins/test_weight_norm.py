"""Norms of weights against analytic values and naive float64 twins."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sounding import Reading, Skip
from sounding.numbers import CHUNK, chunks, pieces, sum_of_squares
from sounding.testing import Trial
from sounding_plugins.weight_norm import weight_norm

module = sys.modules[weight_norm.function.__module__]


def values(findings: Any, metric: str):
    return {each.part: each.value for each in findings if isinstance(each, Reading) and each.metric == metric}


def test_analytic_values(sounding_plugin: Trial):
    state = {"a.weight": torch.tensor([[3.0, 0.0], [0.0, -4.0]]), "a.bias": torch.full((4,), 6.0)}
    found = sounding_plugin(weight_norm, checkpoint={"model": state})
    assert values(found, "frobenius") == {"a.weight": 5.0, "a.bias": 12.0}
    assert values(found, "rms") == {"a.weight": 2.5, "a.bias": 6.0}
    assert values(found, "max_abs") == {"a.weight": 4.0, "a.bias": 6.0}
    assert values(found, "zeros") == {"a.weight": 0.5, "a.bias": 0.0}
    assert values(found, "nonfinite") == {"a.weight": 0, "a.bias": 0}
    assert values(found, "total") == {"": 13.0}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_against_a_naive_float64_twin(sounding_plugin: Trial, dtype: torch.dtype):
    tensor = torch.randn(257, 129, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor}})
    twin = float(np.sqrt(np.sum(tensor.double().numpy() ** 2)))
    assert values(found, "frobenius")["w"] == pytest.approx(twin, rel=1e-12)


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
    assert values(found, "nonfinite") == {"w": 2, "v": 0}
    assert math.isnan(values(found, "total")[""])


def test_infinities_are_counted_in_every_chunk(sounding_plugin: Trial):
    tensor = torch.zeros(2 * CHUNK)
    tensor[0] = math.inf
    tensor[-1] = -math.inf
    assert values(sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor}}), "nonfinite") == {"w": 2}


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

    def watched(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
        for index, piece in enumerate(pieces(tensor)):
            yield piece
            if index % 64 == 0:
                status = Path("/proc/self/status").read_text()
                anonymous.append(int(status.partition("RssAnon:")[2].split()[0]) << 10)

    monkeypatch.setattr(module, "pieces", watched)
    tensor = torch.zeros(16 << 20)  # 64 MiB
    sounding_plugin(weight_norm, checkpoint={"model": {"w": tensor}})
    assert max(anonymous) - min(anonymous) < tensor.nbytes / 8
