"""Every kind of layer and every engine beside dense matrices in float64, on random vectors."""

import copy
import functools
import re

import pytest
import torch
from curvature.nets import Case
from torch import nn
from torch.nn import functional as F

from sounding import Unavailable

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(10, 2, 5, 5, generator=GENERATOR, dtype=torch.float64)
TOKENS = torch.randint(6, (5, 4), generator=GENERATOR)
LABELS = torch.arange(10) % 3


class Attentive(nn.Module):
    """Tied embedding, attention by torch's own kernel, LayerNorm; one logit vector per position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(6, 4), nn.LayerNorm(4)
        self.qkv = nn.Linear(4, 12)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = (each.unflatten(-1, (2, 2)).transpose(1, 2) for each in self.qkv(self.norm(x)).chunk(3, -1))
        return self.head(x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(6, 3), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 6)

    def forward(self, tokens):
        return self.head(self.lstm(self.embed(tokens))[0])


def of_tokens(make):
    targets = TOKENS.roll(-1, 1).clone()
    targets[:, -1] = -100
    targets[2, 1:] = -100  # sequences of different length
    return Case(make().double(), TOKENS, targets, unit="token")


def convolutional(norm):
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.GELU(), nn.Flatten(), nn.Linear(36, 3)).double()


def batch_norm():
    module = convolutional(nn.BatchNorm2d(4))
    module(3 * IMAGES + 1)
    return Case(module.eval(), IMAGES, LABELS)


def weighted(outputs, targets):
    return (outputs - targets[:, None]).square().sum(1), 1.0 + targets.to(outputs.dtype) * (targets != 1)


def frozen():
    module = convolutional(nn.GroupNorm(2, 4))
    module[0].weight.requires_grad_(False)
    return Case(module, IMAGES, LABELS, loss=weighted)


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.3, batch_first=True)
    module = nn.Sequential(nn.Embedding(6, 4), layer, nn.Linear(4, 6)).double().eval()
    return Case(module, TOKENS, TOKENS.flip(0), unit="token")


CASES = {
    "batch norm": batch_norm,
    "group norm, frozen weights, weighted loss": frozen,
    "attention, tied, ignored targets": lambda: of_tokens(Attentive),
    "lstm": lambda: of_tokens(Recurrent),
    "transformer layer": transformer,
}


@functools.cache
def case_of(name):
    torch.manual_seed(3)
    return CASES[name]()


@functools.cache
def dense(name, matrix):
    return getattr(case_of(name), f"dense_{matrix}")()


TRIALS = [
    *((name, "kept", "hessian") for name in CASES),
    *((name, "forward", "hessian") for name in ("batch norm", "attention, tied, ignored targets", "lstm")),
    *((name, "rebuilt", "hessian") for name in ("batch norm", "attention, tied, ignored targets", "transformer layer")),
    *((name, "kept", matrix) for name in CASES for matrix in ("ggn", "fisher")),
    *(
        ("attention, tied, ignored targets", way, matrix)
        for way in ("rebuilt", "forward")
        for matrix in ("ggn", "fisher")
    ),
    *(("batch norm", "some kept", matrix) for matrix in ("hessian", "ggn", "fisher")),
]


WORDS = {
    "kept": "graph kept",
    "some kept": r"graphs of [1-9] of [2-9] chunks",
    "rebuilt": "graphs of 0 of",
    "forward": "forward over",
}


@pytest.mark.parametrize(("name", "way", "matrix"), TRIALS)
def test_products(name, way, matrix, monkeypatch):
    small = {"forward": 1 << 20, "some kept": 10 << 10}.get(way, 20 << 10)
    monkeypatch.setattr("sounding.curvature.memory.CHUNK_CPU", small)  # several chunks, the last one smaller
    case = case_of(name)
    curvature = case.curvature(engine="forward" if way == "forward" else "reverse")
    if way != "kept":
        curvature._matrices._shelf.size = 0 if way == "rebuilt" else 30 << 10
    operator = getattr(curvature, matrix)()
    assert re.search(WORDS[way], operator.facts.engine)
    vectors = torch.randn(3, operator.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(operator.matmat(vectors), vectors @ dense(name, matrix), rtol=1e-9, atol=1e-12)
    assert operator.products == 3
    assert all(each.grad is None for each in case.module.parameters())


@pytest.mark.parametrize("way", ["reverse", "forward"])
def test_batch_norm_as_in_training(way):
    case = batch_norm()
    state = {name: each.clone() for name, each in case.module.state_dict().items()}
    versions = [each._version for each in case.module.buffers()]
    curvature = case.curvature(attributes={"batch_size": 4}, engine=way)
    operator = curvature.hessian("train")
    order = torch.tensor(curvature.subset.positions)
    assert operator.facts.batch_norm == "train"
    assert (operator.facts.batch_size, operator.facts.examples) == (4, 8)  # two whole batches
    expected = torch.zeros(operator.size, operator.size, dtype=torch.float64)
    for batch in order[:8].split(4):
        twin = copy.deepcopy(case.module).train()
        for each in twin.modules():
            each.track_running_stats = False
        expected += Case(twin, IMAGES[batch], LABELS[batch]).dense_hessian() / 2
    vectors = torch.randn(2, operator.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(operator.matmat(vectors), vectors @ expected, rtol=1e-9, atol=1e-12)
    elsewhere = curvature.hessian().matmat(vectors)
    assert float((operator.matmat(vectors) - elsewhere).norm() / elsewhere.norm()) > 0.1
    assert all(torch.equal(each, state[name]) for name, each in case.module.state_dict().items())
    assert versions == [each._version for each in case.module.buffers()]
    assert not any(each.training for each in case.module.modules())
    assert case.module[1].track_running_stats


def test_training_mode_asks_for_the_batch_size():
    with pytest.raises(Unavailable, match="give the run an attribute `batch_size`"):
        batch_norm().curvature().hessian("train")
    with pytest.raises(Unavailable, match="a batch has 11 examples, and the subset of the probe 10"):
        batch_norm().curvature(attributes={"batch_size": 11}).hessian("train")
    assert batch_norm().curvature(batch_size=10).hessian("train").facts.batch_size == 10
    operator = case_of("lstm").curvature(batch_size=11).hessian("train")
    assert operator.facts.batch_norm == "none"
