"""Attention layers written by hand, in the namings of several libraries: their logits never exceed the bound."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sounding import Reading, Skip
from sounding.testing import Trial
from sounding_plugins.logit_scale import logit_scale

WIDTH, HEADS, EACH = 12, 3, 4


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(findings: Any) -> tuple[dict[Any, Reading], dict[str, str]]:
    readings = {(each.metric, each.part, each.index): each for each in findings if isinstance(each, Reading)}
    return readings, {each.part: each.reason for each in findings if isinstance(each, Skip)}


def inputs(state: dict[str, torch.Tensor], norm: str, plain: torch.Tensor) -> torch.Tensor:
    """What a LayerNorm (with a bias) or an RMSNorm makes of rows."""
    gain, bias = state[f"{norm}.weight"], state.get(f"{norm}.bias")
    if bias is not None:
        return F.layer_norm(plain, (WIDTH,), gain, bias)
    return F.rms_norm(plain, (WIDTH,), gain)


def largest(query: torch.Tensor, key: torch.Tensor, heads: int, scale: float) -> torch.Tensor:
    """The largest |logit| by head, of queries [n, heads·k] and keys [n, key heads·k]."""
    queries = query.reshape(len(query), heads, -1)
    keys = key.reshape(len(key), -1, queries.shape[-1])
    keys = keys.repeat_interleave(heads // keys.shape[1], dim=1)
    return scale * torch.einsum("nhk,mhk->hnm", queries, keys).abs().flatten(1).amax(1)


ROWS = drawn(300, WIDTH, seed=7)
BLOCK = "model.layers.1."


def llama() -> dict[str, torch.Tensor]:
    return {
        "model.embed_tokens.weight": drawn(30, WIDTH, seed=1),
        f"{BLOCK}self_attn.q_proj.weight": drawn(12, WIDTH, seed=2),
        f"{BLOCK}self_attn.k_proj.weight": drawn(4, WIDTH, seed=3),
        f"{BLOCK}input_layernorm.weight": 1 + drawn(WIDTH, seed=4, scale=0.3),
        "model.norm.weight": 1 + drawn(WIDTH, seed=5, scale=0.3),
        "lm_head.weight": drawn(30, WIDTH, seed=6),
    }


def test_queries_and_keys_of_their_own_with_fewer_keys(sounding_plugin: Trial):
    state = llama()
    readings, skips = told(sounding_plugin(logit_scale, checkpoint={"model": state}, attributes={"model.n_head": 3}))
    assert skips == {}
    x = inputs(state, f"{BLOCK}input_layernorm", ROWS)
    name = f"{BLOCK}self_attn"
    query, key = x @ state[f"{name}.q_proj.weight"].T, x @ state[f"{name}.k_proj.weight"].T
    measured = largest(query, key, 3, 0.5)
    for head in range(3):
        bound = readings["attention_logit_bound", name, head]
        assert float(measured[head]) <= bound.value <= readings["attention_logit_bound_rotated", name, head].value
        one, two = state[f"{name}.q_proj.weight"][4 * head : 4 * head + 4], state[f"{name}.k_proj.weight"]
        sigma = 0.5 * float(torch.linalg.matrix_norm(one.T.double() @ two.double(), 2))
        assert readings["attention_logit_gain", name, head].value == pytest.approx(sigma, rel=1e-6)
        gain = state[f"{BLOCK}input_layernorm.weight"].double()
        inner = (one.double() * gain).T @ (two.double() * gain)
        assert bound.value == pytest.approx(0.5 * WIDTH * float(torch.linalg.matrix_norm(inner, 2)), rel=1e-6)
        # Those that attain it are normalised inputs: their mean square is 1.
        left, _, right = torch.linalg.svd(inner)
        best = [math.sqrt(WIDTH) * each * gain for each in (left[:, 0], right[0])]
        assert 0.5 * float((one.double() @ best[0]) @ (two.double() @ best[1])) == pytest.approx(bound.value, rel=1e-6)
    whole = readings["attention_logit_bound", name, None]
    assert whole.value == max(readings["attention_logit_bound", name, head].value for head in range(3))
    assert (whole.depth, whole.kind) == (0, "attention")
    assert readings["attention_logit_bound", "", None].value == whole.value


def test_turned_by_positions_the_other_bound_holds(sounding_plugin: Trial):
    state = llama()
    readings, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, heads=3))
    name = f"{BLOCK}self_attn"
    x = inputs(state, f"{BLOCK}input_layernorm", ROWS)
    query, key = x @ state[f"{name}.q_proj.weight"].T, x @ state[f"{name}.k_proj.weight"].T
    for seed in range(20):
        turn = torch.linalg.qr(drawn(EACH, EACH, seed=seed))[0]
        measured = largest(query.reshape(-1, 3, EACH) @ turn, key, 3, 0.5)
        for head in range(3):
            assert float(measured[head]) <= readings["attention_logit_bound_rotated", name, head].value


def stacked(name: str, transposed: bool = False) -> dict[str, torch.Tensor]:
    weight = drawn(3 * WIDTH, WIDTH, seed=2)
    return {
        f"h.0.{name}": weight.T.contiguous() if transposed else weight,
        f"h.0.{name.removesuffix('weight')}bias": drawn(3 * WIDTH, seed=3),
        "h.0.ln_1.weight": 1 + drawn(WIDTH, seed=4, scale=0.5),
        "h.0.ln_1.bias": drawn(WIDTH, seed=5, scale=0.5),
    }


@pytest.mark.parametrize(
    ("ending", "transposed"),
    [("c_attn.weight", False), ("c_attn.weight", True), ("qkv.weight", False), ("in_proj_weight", False)],
)
def test_one_matrix_for_all_with_biases(sounding_plugin: Trial, ending: str, transposed: bool):
    state = stacked(f"attn.{ending}", transposed)
    readings, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, heads=HEADS))
    weight = state[f"h.0.attn.{ending}"]
    x = inputs(state, "h.0.ln_1", ROWS)
    both = x @ (weight if transposed else weight.T) + state[f"h.0.attn.{ending.removesuffix('weight')}bias"]
    measured = largest(both[:, :WIDTH], both[:, WIDTH : 2 * WIDTH], HEADS, 0.5)
    for head in range(HEADS):
        found = readings["attention_logit_bound", "h.0.attn", head].value
        assert float(measured[head]) <= found
        assert found < 6 * float(measured[head])  # and is not idle


def test_queries_keys_and_values_head_by_head(sounding_plugin: Trial):
    state = {
        "layers.0.attention.query_key_value.weight": drawn(3 * WIDTH, WIDTH, seed=2),
        "layers.0.input_layernorm.weight": torch.ones(WIDTH),
    }
    readings, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, attributes={"n_heads": HEADS}))
    parts = state["layers.0.attention.query_key_value.weight"].reshape(HEADS, 3, EACH, WIDTH).double()
    for head in range(HEADS):
        sigma = float(torch.linalg.matrix_norm(parts[head, 0].T @ parts[head, 1], 2))
        found = readings["attention_logit_bound", "layers.0.attention", head].value
        assert found == pytest.approx(0.5 * WIDTH * sigma, rel=1e-6)


def test_norms_on_queries_and_keys_bound_them_and_tell_the_heads(sounding_plugin: Trial):
    state = llama()
    name = f"{BLOCK}self_attn"
    state[f"{name}.q_norm.weight"], state[f"{name}.k_norm.weight"] = drawn(EACH, seed=8), drawn(EACH, seed=9)
    readings, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}))
    x = inputs(state, f"{BLOCK}input_layernorm", ROWS)
    query = F.rms_norm(
        (x @ state[f"{name}.q_proj.weight"].T).reshape(-1, 3, EACH), (EACH,), state[f"{name}.q_norm.weight"]
    )
    key = F.rms_norm(
        (x @ state[f"{name}.k_proj.weight"].T).reshape(-1, 1, EACH), (EACH,), state[f"{name}.k_norm.weight"]
    )
    measured = largest(query.flatten(1), key.flatten(1), 3, 0.5)
    gains = state[f"{name}.q_norm.weight"] * state[f"{name}.k_norm.weight"]
    for head in range(3):
        found = readings["attention_logit_bound", name, head].value
        assert found == pytest.approx(0.5 * EACH * float(gains.abs().max()), rel=1e-6)
        assert float(measured[head]) <= found
    assert ("attention_logit_gain", name, 0) not in readings


def test_norms_over_all_heads_at_once(sounding_plugin: Trial):
    state = llama()
    name = f"{BLOCK}self_attn"
    state[f"{name}.q_norm.weight"], state[f"{name}.k_norm.weight"] = drawn(12, seed=8), drawn(EACH, seed=9)
    readings, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, heads=3))
    query = F.rms_norm(ROWS @ state[f"{name}.q_proj.weight"].T, (12,), state[f"{name}.q_norm.weight"])
    key = F.rms_norm(ROWS @ state[f"{name}.k_proj.weight"].T, (EACH,), state[f"{name}.k_norm.weight"])
    measured = largest(query, key, 3, 0.5)
    for head in range(3):
        gains = state[f"{name}.q_norm.weight"][4 * head : 4 * head + 4] * state[f"{name}.k_norm.weight"]
        found = readings["attention_logit_bound", name, head].value
        assert found == pytest.approx(0.5 * math.sqrt(12 * 4) * float(gains.abs().max()), rel=1e-6)
        assert float(measured[head]) <= found


def test_the_output_logits_of_normalised_features(sounding_plugin: Trial):
    state = llama()
    readings, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, heads=3))
    head = state["lm_head.weight"].double()
    measured = float((inputs(state, "model.norm", ROWS).double() @ head.T).abs().max())
    bound = readings["output_logit_bound", "lm_head.weight", None].value
    gain = state["model.norm.weight"].double()
    assert measured <= bound
    assert bound == pytest.approx(float((head * gain).norm(dim=1).max()) * math.sqrt(WIDTH), rel=1e-6)
    assert readings["output_row_norm_max", "lm_head.weight", None].value == pytest.approx(float(head.norm(dim=1).max()))
    assert readings["output_row_norm_mean", "lm_head.weight", None].value == pytest.approx(
        float(head.norm(dim=1).mean())
    )
    sigma = readings["output_spectral_norm", "lm_head.weight", None]
    assert sigma.value == pytest.approx(float(torch.linalg.matrix_norm(head, 2)), rel=1e-4)
    del state["lm_head.weight"]  # tied: the embedding makes the outputs, too
    readings, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, heads=3))
    # Without it all names begin alike, which is no part of the network's own.
    assert ("output_logit_bound", "embed_tokens.weight", None) in readings


def test_a_plain_classifier_has_outputs_only(sounding_plugin: Trial):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    readings, skips = told(sounding_plugin(logit_scale, model=model))
    assert {metric for metric, _, _ in readings} == {
        "output_spectral_norm",
        "output_row_norm_max",
        "output_row_norm_mean",
    }
    assert "no weight is named" in skips["attention_logit_bound"]
    assert "no norm before it" in skips["2.weight"]
    named, skips = told(sounding_plugin(logit_scale, model=model, unembedding="0.weight"))
    assert ("output_row_norm_max", "0.weight", None) in named
    assert (
        "`unembedding`" in told(sounding_plugin(logit_scale, model=model, unembedding="0"))[1]["output_spectral_norm"]
    )


def test_what_weights_do_not_tell_is_said(sounding_plugin: Trial):
    torch.manual_seed(0)
    model: Any = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(WIDTH, HEADS, 16, norm_first=True), 1, enable_nested_tensor=False
    )
    name = "layers.0.self_attn"
    readings, skips = told(sounding_plugin(logit_scale, model=model))
    assert "number of heads is not known" in skips[name]
    readings, skips = told(sounding_plugin(logit_scale, model=model, heads=HEADS))
    assert "`norms`" in skips[name]
    assert ("attention_logit_gain", name, 0) in readings
    readings, skips = told(sounding_plugin(logit_scale, model=model, heads=HEADS, norms=("norm1",)))
    assert ("attention_logit_bound", name, 2) in readings
    assert name not in skips
    assert "cannot be divided" in told(sounding_plugin(logit_scale, model=model, heads=5))[1][name]
    decoder = {"decoder.0.encoder_attn.q_proj.weight": drawn(4, 4), "decoder.0.encoder_attn.k_proj.weight": drawn(4, 4)}
    channels = {**stacked("attn.qkv.weight"), "h.0.ln_1.running_var": torch.ones(WIDTH)}
    assert (
        "no norm before" in told(sounding_plugin(logit_scale, checkpoint={"model": channels}, heads=3))[1]["h.0.attn"]
    )
    assert (
        "different inputs"
        in told(sounding_plugin(logit_scale, checkpoint={"model": decoder}))[1]["decoder.0.encoder_attn"]
    )


def test_settings_of_the_operator(sounding_plugin: Trial):
    state = llama()
    name = f"{BLOCK}self_attn"
    plain, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, heads=3))
    scaled, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, heads=3, scale=0.25, per_head=False))
    assert scaled["attention_logit_gain", name, None].value == plain["attention_logit_gain", name, None].value / 2
    assert ("attention_logit_gain", name, 0) not in scaled
    state[f"{BLOCK}input_layernorm.weight"] -= 1.0
    offset, _ = told(sounding_plugin(logit_scale, checkpoint={"model": state}, heads=3, norm_offset=1.0))
    expected = plain["attention_logit_bound", name, None].value
    assert offset["attention_logit_bound", name, None].value == pytest.approx(expected, rel=1e-5)
    t5 = {
        "encoder.block.0.layer.0.SelfAttention.q.weight": drawn(12, WIDTH),
        "encoder.block.0.layer.0.SelfAttention.k.weight": drawn(12, WIDTH, seed=1),
        "encoder.block.0.layer.0.layer_norm.weight": torch.ones(WIDTH),
    }
    found, _ = told(sounding_plugin(logit_scale, checkpoint={"model": t5}, heads=1))
    sigma = float(torch.linalg.matrix_norm(drawn(12, WIDTH).T @ drawn(12, WIDTH, seed=1), 2))
    assert found["attention_logit_bound", "", None].value == pytest.approx(WIDTH * sigma, rel=1e-5)
