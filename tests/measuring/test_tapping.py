"""Taps see what the network computes, whatever the batches; each accumulator sees its own and harms no other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sounding import Run, SoundingError, Tap, Unavailable
from sounding.batch import Batch, Tapped, tensors_in
from sounding.measuring.reducing import MOST, projected
from sounding.measuring.traversal import Wanted, traverse
from sounding.passes.gradients import GradientsAccumulator
from sounding.passes.head import head
from sounding.passes.model import Model
from sounding.probe import Probe
from sounding.recipe import Recipe

CPU = torch.device("cpu")
EXAMPLES = 21


class Keep:
    """Everything that its taps saw, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def update(self, batch: Batch) -> None:
        self.batches.append(batch)

    def result(self) -> "Keep":
        return self

    def tensor(self, tap: str, module: str) -> torch.Tensor:
        """Of the whole train split."""
        return torch.cat([each.taps[tap][module] for each in self.batches if each.split == "train"])

    def joined(self, tap: str, module: str, part: str) -> torch.Tensor:
        """A part of pairs or attentions of the whole train split."""
        return torch.cat([getattr(each.taps[tap][module], part) for each in self.batches if each.split == "train"])

    def first(self, tap: str) -> Tapped:
        return self.batches[0].taps[tap]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Linear(6, 7)
        self.act = nn.ReLU(inplace=True)
        self.two = nn.Linear(7, 4)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.act(self.one(x)))


class Attentive(nn.Module):
    """Tokens, one layer of torch's attention, classes per token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wte = nn.Embedding(9, 8)
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 12, batch_first=True) for _ in range(2)])
        self.out = nn.Linear(8, 9)
        self.double()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.wte(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=None if attention_mask is None else attention_mask == 0)
        return self.out(hidden)


def vectors(count: int = EXAMPLES, heldout: int = 0) -> Probe:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count + heldout, 6, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 4, (count + heldout,), generator=generator)
    return Probe((x[:count], y[:count]), (x[count:], y[count:]) if heldout else None)


def tokens(inputs: Any = None, targets: Any = None) -> Probe:
    x = torch.randint(0, 9, (EXAMPLES, 5), generator=torch.Generator().manual_seed(2))
    return Probe((x if inputs is None else inputs(x), x if targets is None else targets(x)), unit="token")


def images(count: int = EXAMPLES) -> Probe:
    x = torch.randn(count, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Probe((x, torch.zeros(count, dtype=torch.int64)))


def model_of(module: nn.Module, **functions: Any) -> Model:
    return Model(module.eval(), Recipe("recipe.py", 1, functions), CPU)


def tapped(module: nn.Module, probe: Probe, taps: Mapping[str, Tap], at_most: int = 1000, **functions: Any) -> Keep:
    model = model_of(module, **functions)
    found = traverse(model, probe, {"keep": Wanted(Keep, taps=taps)}, at_most=at_most)["keep"]
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Keep)
    return found


# ── what modules put out ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("at_most", [1, 4, 8, EXAMPLES])
def test_what_a_module_puts_out_and_takes_in_however_the_probe_is_cut(at_most: int):
    net, probe = Mlp(), vectors()
    taps = {"out": Tap.module("one"), "in": Tap.module("two", of="input"), "all": Tap.module("*")}
    seen = tapped(net, probe, taps, at_most)
    x = probe.splits["train"].batch(0, EXAMPLES)[0]
    before = x @ net.one.weight.T + net.one.bias  # the activation after it writes over this in place
    assert torch.allclose(seen.tensor("out", "one"), before, rtol=1e-12, atol=0)
    assert torch.allclose(seen.tensor("in", "two"), before.relu(), rtol=1e-12, atol=0)
    assert list(seen.first("all")) == ["one", "act", "two"]
    assert not any(tensor.requires_grad for batch in seen.batches for tensor in tensors_in(list(batch.taps.values())))


def test_a_module_called_several_times_is_seen_at_its_last_call_and_the_calls_are_counted():
    class Twice(Mlp):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.one(2 * x)
            return super().forward(x)

    seen = tapped(Twice(), vectors(), {"one": Tap.module("one")})
    again = tapped(Mlp(), vectors(), {"one": Tap.module("one")})
    assert torch.equal(seen.tensor("one", "one"), again.tensor("one", "one"))
    assert seen.first("one").calls == {"one": 2}


def test_the_first_tensor_of_what_a_layer_returns():
    class Block(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return {"hidden": (super().forward(x), None)}

    net = nn.Sequential(Block(6, 4), nn.Identity()).double()
    seen = tapped(net, vectors(), {"b": Tap.module("0")}, forward=lambda m, x: m(x)["hidden"][0])
    x = vectors().splits["train"].batch(0, EXAMPLES)[0]
    assert torch.equal(seen.tensor("b", "0"), functional.linear(x, net[0].weight, net[0].bias))


def pooled(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.stack([channel.mean() for channel in image]) for image in tensor])


@pytest.mark.parametrize(
    ("reduce", "twin"),
    [
        ("pool", pooled),
        ("vector", pooled),
        ("flatten", lambda tensor: tensor.reshape(EXAMPLES, -1)),
        ("project", lambda tensor: tensor.reshape(EXAMPLES, -1)),  # short enough as it is
        ("none", lambda tensor: tensor),
    ],
)
def test_reductions_of_images(reduce: Any, twin: Any):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    seen = tapped(net, images(), {"c": Tap.module("0", reduce)}, at_most=5)
    whole = net[0](images().splits["train"].batch(0, EXAMPLES)[0]).detach()
    assert torch.allclose(seen.tensor("c", "0"), twin(whole), rtol=1e-12, atol=1e-15)


def test_channels_in_the_last_place_are_told_by_the_layers_own_weights():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stage(x.permute(0, 2, 3, 1)).mean((1, 2))

    net = Last().double()
    seen = tapped(net, images(), {"s": Tap.module("stage", "pool")})
    x = images().splits["train"].batch(0, EXAMPLES)[0]
    assert torch.allclose(seen.tensor("s", "stage"), net.stage(x.mean((2, 3))), rtol=1e-10)


def by_mask(hidden: torch.Tensor, counted: torch.Tensor, reduce: str) -> torch.Tensor:
    """One example after the other; zeros where nothing counts."""
    rows = []
    for each, kept in zip(hidden, counted, strict=True):
        own = each[kept]
        empty = torch.zeros(each.shape[1], dtype=each.dtype)
        rows.append(empty if not len(own) else own[-1] if reduce == "last" else own.mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("reduce", ["mean", "last", "vector"])
@pytest.mark.parametrize("mask", ["none", "right", "left", "loss"])
def test_tokens_that_count(reduce: Any, mask: str):
    lengths = torch.arange(EXAMPLES) % 5 + 1
    kept = torch.arange(5) < lengths[:, None]
    kept = kept.flip(1) if mask == "left" else kept
    net = Attentive().eval()
    if mask in ("right", "left"):
        probe = tokens(lambda x: {"input_ids": x, "attention_mask": kept.long()})
    elif mask == "loss":
        kept[0] = False
        probe = tokens(targets=lambda x: torch.where(kept, x, -100))
    else:
        probe, kept = tokens(), torch.ones_like(kept)
    seen = tapped(net, probe, {"t": Tap.module("layers.1.linear2", reduce)}, at_most=6)
    whole = tapped(net, probe, {"t": Tap.module("layers.1.linear2")}, at_most=6).tensor("t", "layers.1.linear2")
    assert torch.allclose(seen.tensor("t", "layers.1.linear2"), by_mask(whole, kept, reduce), rtol=1e-10, atol=1e-14)


def test_a_projection_keeps_inner_products_depends_on_the_length_alone_and_is_linear():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3 * MOST + 17, dtype=torch.float64, generator=generator)
    short = projected(x)
    assert short.shape == (40, MOST)
    assert torch.equal(projected(x[3:5]), short[3:5])
    assert torch.allclose(projected(2 * x[:1] - x[1:2]), 2 * short[:1] - short[1:2], rtol=0, atol=1e-10)
    norms = x.norm(dim=1)
    errors = (short @ short.T - x @ x.T) / norms[:, None] / norms
    assert float(errors.square().mean().sqrt()) < 1.6 / MOST**0.5  # 1/√4096 between rows, √2 as much within
    assert abs(float(errors.mean())) < 4e-3


# ── linear layers ────────────────────────────────────────────────────────────────────────────────────────────────────


def per_example(net: nn.Module, x: Any, y: Any, name: str, loss: Any) -> torch.Tensor:
    """The gradient of every example's loss by one weight, one example after the other."""
    weight = dict(net.named_parameters())[name]
    return torch.stack(
        [torch.autograd.grad(loss(net(x[i : i + 1]), y[i : i + 1]), weight)[0] for i in range(len(x))]
    )  # fmt: skip


@pytest.mark.parametrize("at_most", [1, 8, EXAMPLES])
def test_pairs_make_every_examples_gradient(at_most: int):
    net, probe = Mlp(), vectors(heldout=3)
    seen = tapped(net, probe, {"pairs": Tap.linear()}, at_most)
    x, y = probe.splits["train"].batch(0, EXAMPLES)
    for name in ("one", "two"):
        made = torch.einsum("no,ni->noi", seen.joined("pairs", name, "gradients"), seen.joined("pairs", name, "inputs"))
        twin = per_example(net, x, y, f"{name}.weight", functional.cross_entropy)
        assert torch.allclose(made, twin, rtol=1e-9, atol=1e-14)
    assert all(len(each.taps["pairs"]) == 0 for each in seen.batches if each.split == "heldout")


def test_pairs_of_tokens_and_of_layers_used_twice_sum_to_the_gradient():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.step = nn.Linear(6, 6)
            self.out = nn.Linear(6, 4)
            self.double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.step(torch.tanh(self.step(x)))))

    net, probe = Shared(), vectors()
    pair = tapped(net, probe, {"p": Tap.linear("step")}).batches[0].taps["p"]["step"]
    x, y = probe.splits["train"].batch(0, 8)
    made = torch.einsum("npo,npi->noi", pair.gradients, pair.inputs)
    assert pair.calls == 2
    assert torch.allclose(made, per_example(net, x, y, "step.weight", functional.cross_entropy), rtol=1e-9, atol=1e-14)

    attentive, probe = Attentive().eval(), tokens()
    seen = tapped(attentive, probe, {"p": Tap.linear("layers.*.linear?")})
    assert [*seen.first("p")] == ["layers.0.linear1", "layers.0.linear2", "layers.1.linear1", "layers.1.linear2"]
    pair = seen.first("p")["layers.0.linear1"]
    x, y = probe.splits["train"].batch(0, 8)

    def summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")

    twin = per_example(attentive, x, y, "layers.0.linear1.weight", summed)
    assert torch.allclose(torch.einsum("npo,npi->noi", pair.gradients, pair.inputs), twin, rtol=1e-8, atol=1e-13)


def test_pairs_and_gradients_take_one_backward_between_them():
    net, probe, passed = Mlp(), vectors(), []

    def watching(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        outputs = model(x)
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: passed.append(len(gradient)))
        return outputs

    wanted = {
        "g": Wanted(GradientsAccumulator, gradients=True),
        "one": Wanted(Keep, taps={"p": Tap.linear()}),
        "two": Wanted(Keep, taps={"p": Tap.linear("one")}),
    }
    found: Any = traverse(model_of(net, forward=watching), probe, wanted, at_most=9)
    assert passed == [8, 9, 4]
    pairs = [each.taps["p"]["one"] for each in found["two"].batches]
    total = sum(pair.gradients.T @ pair.inputs for pair in pairs) / EXAMPLES
    assert torch.allclose(found["g"]["one.weight"], total, rtol=1e-10, atol=1e-16)
    assert all(each.gradients is None for each in tapped(Mlp(), vectors(), {"p": Tap.linear()}).batches)


def test_what_the_loss_does_not_reach_has_no_gradient_and_what_is_frozen_is_named():
    class Idle(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(6, 2).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.idle(x)
            return super().forward(x)

    pair = tapped(Idle(), vectors(), {"p": Tap.linear("idle")}).first("p")["idle"]
    assert pair.gradients.shape == (8, 2)
    assert not pair.gradients.any()
    frozen = Mlp()
    frozen.one.requires_grad_(False)
    seen = tapped(frozen, vectors(), {"p": Tap.linear()}).first("p")
    assert (list(seen), seen.missing) == (["two"], {"one": "no gradient reaches it"})


def test_inputs_that_are_written_over_are_not_passed_off_as_those_that_were_used():
    class Overwriting(Mlp):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            hidden = self.one(x)
            x.zero_()
            return self.two(hidden)

    net = Overwriting()
    net.one.weight.requires_grad_(False)  # autograd itself refuses where it needs the input
    with pytest.raises(Unavailable, match="`one` cannot be tapped: its input is written over in place"):
        tapped(net, vectors(), {"p": Tap.linear("one")})


# ── attention ────────────────────────────────────────────────────────────────────────────────────────────────────────


def weights_of(call: Any) -> torch.Tensor:
    """Attention weights from what was seen, [n, heads, positions, positions]."""
    scores = call.scale * call.query @ call.key.mT
    if call.mask is not None:
        mask = call.mask
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if call.causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:]).tril().bool(), -torch.inf)
    return scores.softmax(-1)


@pytest.mark.parametrize("masked", ["none", "bool", "float", "keys", "both"])
def test_attention_of_torchs_own_module(masked: str):
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
            self.out = nn.Linear(6, 4)
            self.double()
            self.weights: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.stack([x, 2 * x, x.roll(1, 1)], 1)
            above = torch.ones(3, 3).triu(1).bool()
            added = torch.zeros(3, 3, dtype=x.dtype).masked_fill(above, -torch.inf)
            padding = torch.arange(3) >= 2 + torch.arange(len(x))[:, None] % 2
            mask = {"bool": above, "both": above, "float": added}.get(masked)
            keys = padding if masked in ("keys", "both") else None
            mixed, weights = self.mix(x, x, x, attn_mask=mask, key_padding_mask=keys, average_attn_weights=False)
            self.weights.append(weights.detach())
            return self.out(mixed.mean(1))

    net = Own().eval()
    seen = tapped(net, vectors(), {"a": Tap.attention()}, at_most=8)
    for batch, twin in zip(seen.batches, net.weights, strict=True):
        assert torch.allclose(weights_of(batch.taps["a"]["mix"]), twin, rtol=1e-10, atol=1e-14)


def test_attention_by_function_with_shared_keys_scale_mask_and_several_calls():
    class Mixing(nn.Module):
        def forward(self, x: torch.Tensor, causal: bool) -> torch.Tensor:
            query = x.reshape(len(x), 4, 3, 2)
            key = query[:, ::2] + 1
            mask = None if causal else torch.tensor([[True, False, True]] * 3)
            options = {"is_causal": causal, "attn_mask": mask, "enable_gqa": True}
            values = torch.eye(3, dtype=x.dtype).expand(len(x), 2, 3, 3)
            return functional.scaled_dot_product_attention(query, key, values, scale=0.3, **options)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two, self.out = Mixing(), Mixing(), nn.Linear(36, 4)
            self.up = nn.Linear(6, 24)
            self.double()
            self.weights: list[torch.Tensor] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.up(x)
            self.weights = [self.one(x, True), self.one(2 * x, False), self.two(x, False)]
            return self.out(sum(self.weights).flatten(1))

    net = Net()
    calls = tapped(net, vectors(8), {"a": Tap.attention()}).first("a")
    assert list(calls) == ["one", "one#2", "two"]
    assert calls.calls == {"one": 2, "two": 1}
    assert {call.causal for name, call in calls.items() if name != "one"} == {False}
    assert {call.scale for call in calls.values()} == {0.3}
    for call, twin in zip(calls.values(), net.weights, strict=True):
        assert torch.allclose(weights_of(call), twin, rtol=1e-10, atol=1e-14)


def test_the_fast_path_of_torchs_encoder_is_seen_too():
    calls = tapped(Attentive().eval(), tokens(), {"a": Tap.attention()}).first("a")
    assert list(calls) == ["layers.0.self_attn", "layers.1.self_attn"]


def test_a_network_without_attention():
    with pytest.raises(Unavailable, match="no attention was seen"):
        tapped(Mlp(), vectors(), {"a": Tap.attention()})


# ── who sees what, and what is left behind ───────────────────────────────────────────────────────────────────────────


def test_each_accumulator_sees_its_own_and_hooks_are_shared():
    net = Mlp()
    counts: list[int] = []

    def counting(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        counts.append(sum(len(each._forward_hooks) for each in model.modules()))
        return model(x)

    wanted = {
        "a": Wanted(Keep, taps={"mine": Tap.module("one")}),
        "b": Wanted(Keep, taps={"yours": Tap.module("one"), "more": Tap.module("two")}),
        "c": Wanted(Keep),
    }
    found: Any = traverse(model_of(net, forward=counting), vectors(), wanted, at_most=8)
    assert [list(found[name].batches[0].taps) for name in wanted] == [["mine"], ["yours", "more"], []]
    assert found["a"].batches[0].taps["mine"]["one"] is found["b"].batches[0].taps["yours"]["one"]
    assert counts == [2 + 3, 2, 2]  # what batches take is measured once, with a hook on each of three modules


@pytest.mark.parametrize(
    ("tap", "words"),
    [
        (Tap.module("thre*"), "no module of the network is named `thre*`; there are: one, act, two, spare, turned"),
        (Tap.linear("act"), "no Linear of the network is named `act`; there are: one, two, spare"),
        (Tap.module("spare"), "the layer `spare` cannot be tapped: it did not run"),
        (Tap.module("turned"), "`turned` cannot be tapped: it puts out float64 of shape (4, 8) for 8 examples"),
        (Tap.module("one", "pool"), ""),
        (Tap.head(), "the network's head was not looked for"),
    ],
)
def test_a_layer_that_cannot_be_tapped_costs_its_accumulator_alone(tap: Tap, words: str):
    class Turned(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(2, 2)
            self.turned = nn.Unflatten(0, (-1,))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = super().forward(x)
            self.turned(found.mT)
            return found

    wanted = {"bad": Wanted(Keep, taps={"t": tap}), "good": Wanted(Keep, taps={"t": Tap.module("two")})}
    found = traverse(model_of(Turned()), vectors(), wanted)
    assert isinstance(found["good"], Keep)
    assert found["good"].tensor("t", "two").shape == (EXAMPLES, 4)
    assert isinstance(found["bad"], Unavailable if words else Keep)
    assert words in str(found["bad"])


def test_patterns_say_what_they_did_not_reach_and_what_is_not_required_is_missing():
    class Spare(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(2, 2)

    seen = tapped(Spare(), vectors(), {"t": Tap.module("*"), "h": Tap.head(required=False)})
    assert list(seen.first("t")) == ["one", "act", "two"]
    assert seen.first("t").missing == {"spare": "it did not run"}
    assert dict(seen.first("h")) == {}
    assert seen.first("h").missing == {"head": "the network's head was not looked for"}


def test_top_level_blocks():
    def of(net: nn.Module, probe: Probe) -> list[str]:
        model = model_of(net, probe=lambda run: probe)
        it = head(model, model.recipe, Run("lab", "a", {}))
        wanted = {"k": Wanted(Keep, taps={"b": Tap.blocks()})}
        found: Any = traverse(model, probe, wanted, head=it)
        return list(found["k"].batches[0].taps["b"])

    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *given: Any, **named: Any) -> Any:
            return self.inner(*given, **named)

    assert of(Mlp(), vectors()) == ["one"]
    assert of(Wrapped(Mlp()), vectors()) == ["inner.one"]
    assert of(Wrapped(Attentive().eval()), tokens()) == ["inner.layers.0", "inner.layers.1"]
    stages = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(3)]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
    assert of(net, images()) == ["0", "1", "2"]


class Meddler:
    """Leaves everything changed that it can reach, and then fails."""

    def __init__(self, net: nn.Module) -> None:
        self.net: Any = net

    def update(self, batch: Batch) -> None:
        self.net.train()
        self.net.norm.running_mean.add_(1)
        self.net.norm.running_var = torch.zeros(7, dtype=torch.float64)
        self.net.one.register_forward_hook(lambda *_: None)
        self.net.one.weight.requires_grad_(False)
        self.net.two.bias.grad = torch.ones(4, dtype=torch.float64)
        torch.rand(1), np.random.rand()
        raise ValueError("no luck")

    def result(self) -> None:
        return None


def test_nothing_is_left_behind_when_a_plugin_fails():
    class Normed(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(7).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.norm(self.one(x)))

    net = Normed().eval()
    taps = {"m": Tap.module("*"), "p": Tap.linear(), "a": Tap.module("one", "last", "input")}
    wanted = {"bad": Wanted(lambda: Meddler(net), taps=taps), "good": Wanted(Keep, taps=taps)}
    before = {name: each.clone() for name, each in net.state_dict().items()}
    torch.manual_seed(1)
    np.random.seed(1)
    expected = (torch.rand(1), np.random.rand())
    torch.manual_seed(1)
    np.random.seed(1)
    found = traverse(model_of(net), vectors(), wanted)
    assert "no luck" in str(found["bad"])
    assert (torch.rand(1), np.random.rand()) == expected
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    assert not any(each.training for each in net.modules())
    assert all(each.requires_grad and each.grad is None for each in net.parameters())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(each, kind) for each in net.modules() for kind in kinds)


def test_hooks_are_gone_after_a_forward_that_fails():
    net = Mlp()

    def failing(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        model(x)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        tapped(
            net, vectors(), {"m": Tap.module("*"), "p": Tap.linear(), "i": Tap.module("*", of="input")}, forward=failing
        )
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in net.modules())


def test_what_taps_hold_counts_in_the_size_of_batches():
    def sizes(taps: Mapping[str, Tap]) -> list[int]:
        found: Any = traverse(model_of(Mlp()), vectors(), {"k": Wanted(Keep, taps=taps)}, budget=10 * 8 * (7 + 7 + 4))[
            "k"
        ]
        return [each.size for each in found.batches]

    assert sizes({}) == [8, 10, 3]
    assert sizes({"one": Tap.module("one")}) == [8, 7, 6]  # 7 more values of 18: 10 · 18/25
    assert sizes({"pairs": Tap.linear()}) == [8, 3, 3, 3, 3, 1]  # twice 18 for the graph, 6 + 7 + 7 + 4 besides


def test_memory_that_runs_out_in_a_hook_starts_again_with_fresh_accumulators():
    class Greedy(nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 6:
                raise MemoryError
            return x

    net = nn.Sequential(Mlp(), Greedy())
    seen = tapped(net, vectors(), {"m": Tap.module("0.one")})
    assert sum(each.size for each in seen.batches) == EXAMPLES
    assert not any(each._forward_hooks for each in net[0].modules())


def test_float32_end_to_end_agrees_whatever_the_batches():
    net, x = Mlp().float(), torch.randn(EXAMPLES, 6, generator=torch.Generator().manual_seed(1))
    probe = Probe((x, torch.zeros(EXAMPLES, dtype=torch.int64)))
    one, other = (tapped(net, probe, {"f": Tap.module("two", of="input")}, at_most=size) for size in (1, EXAMPLES))
    assert torch.allclose(one.tensor("f", "two"), other.tensor("f", "two"), rtol=1e-5, atol=1e-7)


def test_taps_that_make_no_sense():
    with pytest.raises(SoundingError, match="a tap's `reduce` is 'sum', expected one of: none, pool, mean, last"):
        Tap.module("*", reduce="sum")  # type: ignore[arg-type]
    with pytest.raises(SoundingError, match="a tap's `of` is 'both'"):
        Tap.module("*", of="both")  # type: ignore[arg-type]
