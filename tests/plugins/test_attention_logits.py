"""Attention logits of layers written by hand: found as they are, and within the bounds that the weights give."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sounding import Reading
from sounding.batch import AttentionCall
from sounding.passes.attention_statistics import extremes_of
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.attention_logits import attention_logits
from sounding_plugins.logit_scale import logit_scale


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(findings: Any) -> dict[Any, Reading]:
    return {(each.metric, each.part, each.index): each for each in findings if isinstance(each, Reading)}


def test_what_may_not_be_looked_at_does_not_count():
    query, key = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    logits = 0.5 * query @ key.transpose(-2, -1)
    plain = extremes_of(AttentionCall(query, key, 0.5, False, None))
    assert plain is not None
    np.testing.assert_allclose(plain.highest, logits.amax((0, 2, 3)).double(), rtol=1e-6)
    np.testing.assert_allclose(plain.lowest, logits.amin((0, 2, 3)).double(), rtol=1e-6)
    for call, allowed in (
        (AttentionCall(query, key, 0.5, True, None), torch.ones(4, 4).tril().bool()),
        (AttentionCall(query, key, 0.5, False, torch.eye(4).bool()), torch.eye(4).bool()),
        (AttentionCall(query, key, 0.5, False, torch.where(torch.eye(4) > 0, 7.0, -10_000.0)), torch.eye(4).bool()),
        (AttentionCall(query, key, 0.5, True, torch.where(torch.eye(4) > 0, 7.0, -torch.inf)), torch.eye(4).bool()),
    ):
        found = extremes_of(call)
        assert found is not None
        np.testing.assert_allclose(
            found.highest, logits.masked_fill(~allowed, -torch.inf).amax((0, 2, 3)).double(), rtol=1e-6
        )
        np.testing.assert_allclose(
            found.lowest, logits.masked_fill(~allowed, torch.inf).amin((0, 2, 3)).double(), rtol=1e-6
        )
    assert extremes_of(AttentionCall(query, key, 0.5, False, torch.zeros(4, 4).bool())) is None


class Block(nn.Module):
    """A block of a small language model: a norm before attention, two heads of keys for four of queries."""

    def __init__(self, rotary: bool) -> None:
        super().__init__()
        self.rotary = rotary
        self.input_layernorm = nn.RMSNorm(16)
        self.self_attn = nn.Module()
        self.self_attn.q_proj = nn.Linear(16, 16, bias=False)
        self.self_attn.k_proj = nn.Linear(16, 8, bias=False)
        self.self_attn.v_proj = nn.Linear(16, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.input_layernorm(x)
        query, key, value = (
            layer(y).unflatten(-1, (-1, 4)).transpose(1, 2)
            for layer in (self.self_attn.q_proj, self.self_attn.k_proj, self.self_attn.v_proj)
        )
        if self.rotary:
            query, key = turned(query), turned(key)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return x + mixed.transpose(1, 2).flatten(2)


def turned(x: torch.Tensor) -> torch.Tensor:
    angles = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1])
    one, two = x[..., :2], x[..., 2:]
    return torch.cat([one * angles.cos() - two * angles.sin(), one * angles.sin() + two * angles.cos()], dim=-1)


class Network(nn.Module):
    def __init__(self, rotary: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(20, 16)
        self.layers = nn.ModuleList([Block(rotary) for _ in range(2)])
        self.norm = nn.RMSNorm(16)
        self.lm_head = nn.Linear(16, 20, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embed_tokens(x)
        for layer in self.layers:
            y = layer(y)
        return self.lm_head(self.norm(y))


@pytest.mark.parametrize("rotary", [False, True])
def test_measured_logits_lie_within_their_bounds(sounding_plugin: Trial, rotary: bool):
    torch.manual_seed(0)
    model = Network(rotary)
    for layer in model.layers:
        nn.init.normal_(layer.input_layernorm.weight, 1.0, 0.5)
    tokens = torch.randint(0, 20, (40, 10), generator=torch.Generator().manual_seed(1))
    probe = Probe(train=(tokens, tokens.roll(-1, 1)), unit="token")
    measured = told(sounding_plugin(attention_logits, model=model, probe=probe))
    bounds = told(sounding_plugin(logit_scale, model=model, attributes={"n_head": 4}))
    bound = "attention_logit_bound_rotated" if rotary else "attention_logit_bound"
    for block in range(2):
        parts = [part for metric, part, index in measured if part.startswith(f"layers.{block}") and index == 0]
        assert parts
        for head in range(4):
            value = measured["max_abs_logit", parts[0], head].value
            assert 0 < value <= bounds[bound, f"layers.{block}.self_attn", head].value
            assert measured["max_logit", parts[0], head].value <= value
        assert measured["max_abs_logit", parts[0], 0].depth == block
    whole = measured["max_abs_logit", "", None]
    assert whole.value == max(
        each.value for each in measured.values() if each.value is not None and each.index is not None
    )
    assert whole.split == "train"
    few = told(sounding_plugin(attention_logits, model=model, probe=probe, per_head=False))
    assert {index for _, _, index in few} == {None}


def test_planted_inputs_attain_the_bound(sounding_plugin: Trial):
    # The first word makes the longest product of a query and a key that any input of this norm can make.
    torch.manual_seed(0)
    model = Network(False)
    block: Any = model.layers[0]
    query = block.self_attn.q_proj.weight.detach()[:4]
    key = block.self_attn.k_proj.weight.detach()[:4]
    left, values, right = torch.linalg.svd(query.T @ key)
    with torch.no_grad():
        model.embed_tokens.weight[0], model.embed_tokens.weight[1] = left[:, 0], right[0]
    tokens = torch.tensor([[1, 0]]).repeat(3, 1)  # looks back from the query's word to the key's
    probe = Probe(train=(tokens, tokens), unit="token")
    measured = told(sounding_plugin(attention_logits, model=model, probe=probe))
    part = next(part for metric, part, index in measured if part.startswith("layers.0"))
    bounds = told(sounding_plugin(logit_scale, model=model, heads=4))
    expected = 0.5 * 16 * float(values[0])
    assert bounds["attention_logit_bound", "layers.0.self_attn", 0].value == pytest.approx(expected, rel=1e-5)
    assert measured["max_abs_logit", part, 0].value == pytest.approx(expected, rel=1e-4)
    assert measured["max_abs_logit", part, 0].value <= bounds[
        "attention_logit_bound", "layers.0.self_attn", 0
    ].value * (1 + 1e-5)
