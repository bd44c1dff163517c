"""Spectra of whole checkpoints: the peer's numbers in its mode, planted answers in ours."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from making import checkpoint
from mapped import mapped_bytes
from safetensors.torch import save_file

from sounding import Curve, Finding, Reading, Skip
from sounding.opening import open_checkpoint
from sounding.passes.weights import weights
from sounding.testing import Trial
from sounding_plugins.weight_spectrum import _affordable, weight_spectrum

PEER = json.loads((Path(__file__).parent / "peers" / "weightwatcher.json").read_text())["layers"]


def readings(findings: Iterable[Finding]) -> dict[str, dict[str, Reading]]:
    found: dict[str, dict[str, Reading]] = {}
    for each in findings:
        if isinstance(each, Reading):
            found.setdefault(each.part, {})[each.metric] = each
    return found


def heavy(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    scale = torch.rand(columns, generator=generator, dtype=torch.float64).clamp_min(1e-3) ** -0.4
    return torch.randn(rows, columns, generator=generator) * scale.float() * 0.05


def peer_network() -> dict[str, torch.Tensor]:
    """The weights that the peer was given, drawn in this order."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(256, 128), (64, 300), (96, 96), (12, 200)]
    network = {f"l{place}": heavy(*shape, generator) for place, shape in enumerate(shapes)}
    return network | {"conv": heavy(80, 64 * 9, generator).reshape(80, 64, 3, 3)}


def test_in_its_mode_the_numbers_are_those_of_weightwatcher(sounding_plugin: Trial):
    found = readings(
        sounding_plugin(weight_spectrum, checkpoint={"model": peer_network()}, mode="weightwatcher", smallest=2)
    )
    assert set(found) == set(PEER) == {"l0", "l1", "l2", "l3", "conv"}  # conv: slices; l3: fewer than 20 values
    for part, expected in PEER.items():
        assert {name: found[part][name].value for name in expected} == pytest.approx(expected, rel=1e-6)
        assert "mp_edge" not in found[part]


def test_scaling_a_layer_scales_its_eigenvalues_and_nothing_else(sounding_plugin: Trial):
    weight = heavy(128, 96, torch.Generator().manual_seed(2))
    small, large = (
        readings(sounding_plugin(weight_spectrum, checkpoint={"model": {"w": weight * scale}}))["w"]
        for scale in (2.0**-9, 1.0)
    )
    for metric in ("stable_rank", "effective_rank", "effective_rank_energy", "alpha", "tail", "matrix_rank", "spikes"):
        assert small[metric].value == pytest.approx(large[metric].value, rel=1e-9), metric
    for metric in ("lambda_max", "xmin", "mp_edge"):
        assert small[metric].value == pytest.approx(2.0**-18 * float(str(large[metric].value)), rel=1e-9), metric


def test_known_matrices(sounding_plugin: Trial):
    diagonal = torch.diag(torch.arange(1.0, 33.0))
    shares = torch.arange(1.0, 33.0, dtype=torch.float64)
    entropy = -(shares / shares.sum() * (shares / shares.sum()).log()).sum()
    found = sounding_plugin(weight_spectrum, checkpoint={"model": {"w": diagonal, "eye": torch.eye(20)}})
    of_w, of_eye = readings(found)["w"], readings(found)["eye"]
    assert of_w["lambda_max"].value == pytest.approx(32.0**2)
    assert of_w["stable_rank"].value == pytest.approx(float((shares**2).sum()) / 32**2)
    assert of_w["effective_rank"].value == pytest.approx(math.exp(entropy))
    assert of_w["matrix_rank"].value == 32
    assert of_eye["effective_rank"].value == pytest.approx(20.0)
    assert of_eye["matrix_entropy"].value == pytest.approx(1.0)
    assert "alpha" not in of_eye  # all eigenvalues are equal
    assert of_w["alpha"].quality == "unresolved"  # 32 values
    curves = {each.part: each for each in found if isinstance(each, Curve)}
    assert curves["w"].y == pytest.approx([33 - rank for rank in curves["w"].x])
    assert (curves["w"].x[0], curves["w"].x[-1]) == (1.0, 32.0)


def test_kernels_are_unfolded(sounding_plugin: Trial):
    kernel = torch.randn(40, 20, 3, 3, generator=torch.Generator().manual_seed(0))
    found = readings(sounding_plugin(weight_spectrum, checkpoint={"model": {"conv": kernel}}))
    exact = torch.linalg.svdvals(kernel.double().reshape(40, -1))
    assert found["conv"]["lambda_max"].value == pytest.approx(float(exact[0]) ** 2, rel=1e-9)


def test_single_precision_agrees_to_a_thousandth(sounding_plugin: Trial):
    checkpoint = {"model": {"w": heavy(300, 200, torch.Generator().manual_seed(4))}}
    double = readings(sounding_plugin(weight_spectrum, checkpoint=checkpoint))["w"]
    single = readings(sounding_plugin(weight_spectrum, checkpoint=checkpoint, single_precision=True))["w"]
    for metric in ("lambda_max", "alpha", "effective_rank", "stable_rank"):
        assert single[metric].value == pytest.approx(double[metric].value, rel=1e-3), metric


def test_of_a_large_matrix_the_largest_eigenvalues_are_bounded(sounding_plugin: Trial):
    weight = heavy(260, 200, torch.Generator().manual_seed(5))
    whole = readings(sounding_plugin(weight_spectrum, checkpoint={"model": {"w": weight}}))["w"]
    found = sounding_plugin(weight_spectrum, checkpoint={"model": {"w": weight}}, full_up_to=100, top=60)
    part = readings(found)["w"]
    low, high = part["lambda_max"].low, part["lambda_max"].high
    assert low is not None
    assert high is not None
    exact = float(str(whole["lambda_max"].value))
    assert low <= exact <= high
    assert high - low < 1e-3 * exact
    assert part["stable_rank"].value == pytest.approx(whole["stable_rank"].value, rel=1e-3)
    assert "effective_rank" not in part
    assert any(isinstance(each, Skip) and "60 largest" in each.reason for each in found)


def test_matrices_are_gone_through_one_after_the_other(tmp_path: Path):
    path = tmp_path / "ckpt.safetensors"
    save_file({f"w{place}": torch.ones(1 << 15, 32) for place in range(8)}, path)  # 4 MiB each
    resident = []
    with open_checkpoint(str(path)) as opened:
        found = weights(opened, "")
        for each in weight_spectrum(found, checkpoint()):
            if isinstance(each, Reading) and each.metric == "lambda_max":
                assert each.value == pytest.approx(32 << 15)
                resident.append(mapped_bytes(path))
        found.forget()
    assert len(resident) == 8
    assert max(resident) < 4 << 20


def test_what_exceeds_the_budget_waits_for_its_turn(sounding_plugin: Trial):
    network = {f"w{place}": torch.eye(16) + place for place in range(3)}
    each = (16**3 + 4 / 3 * 16**3) / 1e9
    found = sounding_plugin(weight_spectrum, checkpoint={"model": network}, gigaflops=2 * each)
    waiting = {skip.part for skip in found if isinstance(skip, Skip) and "later checkpoint" in skip.reason}
    assert waiting in ({"w2"}, {"w0", "w1"})
    assert set(readings(found)) == set(network) - waiting


def test_at_every_checkpoint_other_matrices_have_their_turn():
    costs = {"a": 1.0, "b": 1.0, "c": 5.0, "d": 1.0}
    assert [_affordable(costs, 2.0, turn) for turn in range(4)] == [{"a", "b"}, {"c"}, {"d"}, {"a", "b"}]
    assert _affordable(costs, 8.0, 3) == set(costs)


def test_what_cannot_be_measured_says_so(sounding_plugin: Trial):
    network = {"zero": torch.zeros(20, 20), "nan": torch.full((20, 20), math.nan), "small": torch.ones(3, 20)}
    found = sounding_plugin(weight_spectrum, checkpoint={"model": network})
    reasons = {each.part: each.reason for each in found if isinstance(each, Skip)}
    assert set(reasons) == {"zero", "nan"}
    assert "zero" in reasons["zero"]
    assert "NaN" in reasons["nan"]
    found = sounding_plugin(weight_spectrum, checkpoint={"model": {"small": torch.ones(3, 20)}})
    assert [each.reason for each in found if isinstance(each, Skip)] == ["no weight matrix has 16 rows and columns"]
