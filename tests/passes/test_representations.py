"""Representations are the activations of a fixed sample, the same rows for every checkpoint, aligned by id."""

from typing import Any

import pytest
import torch
from torch import nn

from sounding import Metric, Reading, Run, Unavailable, plugin
from sounding.measuring.traversal import Wanted, traverse
from sounding.passes import Model, Other, Representations
from sounding.passes.head import head
from sounding.passes.representations import RepresentationsAccumulator, _taps
from sounding.probe import Probe
from sounding.recipe import Recipe
from sounding.testing import Trial

M = [Metric("m", unit="1", meaning="m", source="s")]
TRAIN, HELDOUT = 30, 20


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(2, 4, 3)
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])
        self.fc = nn.Linear(4, 3)

    def hidden(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(layer(found[-1].relu()))
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.hidden(x)[-1].mean((2, 3)))


def probe_of(ids: Any = None) -> Probe:
    x = torch.randn(TRAIN + HELDOUT, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    y = torch.arange(TRAIN + HELDOUT) % 3
    return Probe((x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:]), ids=ids)


def represented(net: nn.Module, probe: Probe, at_most: int = 1000, **options: Any) -> Any:
    recipe = Recipe("r.py", 1, {"probe": lambda run: probe})
    model = Model(net.eval(), recipe, torch.device("cpu"))
    settings = {"layers": ("blocks", "head"), "reduce": "vector", "split": "", "examples": 2048, **options}
    it: Any
    try:
        it = head(model, recipe, Run("lab", "a", {}))
    except Unavailable as reason:
        it = reason

    def make() -> RepresentationsAccumulator:
        return RepresentationsAccumulator(probe, settings["split"], settings["examples"])

    return traverse(model, probe, {"r": Wanted(make, taps=_taps(**settings))}, head=it, at_most=at_most)["r"]


@pytest.mark.parametrize("at_most", [1, 7, 1000])
def test_rows_are_the_examples_whatever_the_batches(at_most: int):
    net, probe = Net(), probe_of()
    found = represented(net, probe, at_most)
    assert list(found) == ["stem", "layers.0", "layers.1", "head"]
    assert (found.split, found.ids) == ("heldout", tuple(range(HELDOUT)))
    with torch.no_grad():
        twins = [each.mean((2, 3)) for each in net.hidden(probe.splits["heldout"].batch(0, HELDOUT)[0])]
    for layer, twin in zip(found.values(), [*twins, twins[-1]], strict=True):
        assert layer.dtype == torch.float32
        assert torch.allclose(layer, twin, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at_most", [3, 1000])
def test_a_sample_is_the_same_for_every_network_and_spread_over_the_split(at_most: int):
    ids = {"train": [f"t{i}" for i in range(TRAIN)], "heldout": [f"h{i}" for i in range(HELDOUT)]}
    probe = probe_of(ids)
    found = represented(Net(), probe, at_most, split="train", examples=10, layers=("head",))
    again = represented(Net(7), probe, split="train", examples=10, layers=("head",))
    places = [ids["train"].index(each) for each in found.ids]
    assert found.ids == again.ids
    assert len(places) == 10
    assert places == sorted(set(places))
    assert places[-1] > 15
    whole = represented(Net(), probe, split="train", layers=("head",))
    assert torch.allclose(found["head"], whole["head"][places], rtol=1e-5, atol=1e-6)


def test_layers_by_pattern_and_reduction():
    found = represented(Net(), probe_of(), layers=("layers.*",), reduce="flatten")
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "layers.0": (HELDOUT, 64), "layers.1": (HELDOUT, 64),
    }  # fmt: skip


def test_what_cannot_be_had_is_said_and_the_rest_is_there():
    class Headless(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.normalize(super().forward(x))

    found = represented(Headless(), probe_of())
    assert list(found) == ["stem", "layers.0", "layers.1", "fc"]
    assert "head was not found" in found.missing["head"]
    found = represented(Net(), probe_of(), reduce="none")
    assert list(found) == ["head"]
    assert "no vector per example: set `reduce`" in found.missing["stem"]
    with pytest.raises(
        Unavailable, match="no layer's activations can be had: module: no module of the network is named"
    ):
        raise represented(Net(), probe_of(), layers=("nothing*",))
    with pytest.raises(Unavailable, match="the probe has no split `test`; there are: train, heldout"):
        raise represented(Net(), probe_of(), split="test")


def test_pairs_are_aligned_by_id():
    layers = {"a": torch.arange(6.0).reshape(3, 2)}
    one = Representations(layers, "train", ["x", "y", "z"], {})
    other = Representations(layers, "train", ["z", "q", "x"], {})
    here, there = one.shared_with(other)
    assert (here.tolist(), there.tolist()) == ([0, 2], [2, 0])
    elsewhere, _ = one.shared_with(Representations(layers, "heldout", ["x"], {}))
    assert elsewhere.shape == (0,)


def test_a_plugin_over_pairs_is_given_both(sounding_plugin: Trial):
    @plugin(version=1, metrics=M, over="pair", against="previous", cost="data")
    def moved(representations: Representations, other: Other):
        here, there = representations.shared_with(other.representations)
        for name in representations:
            change = representations[name][here] - other.representations[name][there]
            yield Reading("m", float(change.norm()), part=name)

    now, before = Net(), Net(3)
    found = sounding_plugin(moved, model=now, previous={"model": before.state_dict()}, probe=probe_of())
    assert [each.part for each in found] == ["stem", "layers.0", "layers.1", "head"]
    x = probe_of().splits["heldout"].batch(0, HELDOUT)[0]
    with torch.no_grad():
        change = now.hidden(x)[-1].mean((2, 3)) - before.hidden(x)[-1].mean((2, 3))
    assert found[-1].value == pytest.approx(float(change.norm()), rel=1e-4)
    assert (sounding_plugin.forwards, sounding_plugin.backwards) == (2 * (TRAIN + HELDOUT + 4), 0)  # 4 for the head
