"""What accumulators took in apart is, merged, what one of them makes of everything."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Mergeable, Run
from sounding.batch import Batch
from sounding.measuring.discovery import load
from sounding.measuring.traversal import Wanted, traverse
from sounding.passes import Model, class_moments
from sounding.passes.head import head
from sounding.probe import Probe
from sounding.recipe import Recipe

SIZES = (23, 13)  # of the splits; batches have three examples at most
SETTINGS: Mapping[str, Mapping[str, Any]] = {  # so that there is something in every batch, and something left out
    "token_ranks": {"sequences": 5, "stride": 2},
    "representations": {"examples": 11, "split": "train"},
    "angles": {"prefix": 2},
    "class_moments": {"least_tokens": 8},
}
SUMS = {"gradients", "class_moments", "layer_moments", "angles"}  # all others keep rows, counts or extremes
PASSES = {name: item for name, item in load().passes.items() if item.kind == "accumulator"}
BUNDLED = [name for name, item in PASSES.items() if item.function.__module__.partition(".")[0].startswith("sounding")]
CASES = [(name, "tokens") for name in BUNDLED] + [
    (name, "classes")
    for name in ("predictions", "gradients", "logit_statistics", "representations", "class_moments", "layer_moments")
]


class Attentive(nn.Module):
    """A class for every token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wte = nn.Embedding(9, 8)
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 12, batch_first=True) for _ in range(2)])
        self.out = nn.Linear(8, 9)
        self.double()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.wte(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.out(hidden)


class Classifier(nn.Module):
    """A class for every example."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.out = nn.Linear(6, 4)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.out(x)


class Parts:
    """One accumulator that is given every batch, and two that are given every other one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.whole, self.even, self.odd = make(), make(), make()
        self._count = 0

    def update(self, batch: Batch) -> None:
        for each in (self.whole, self.odd if self._count % 2 else self.even):
            each.update(batch)
        self._count += 1

    def result(self) -> "Parts":
        return self


def filled(name: str, kind: str) -> Parts:
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(0, 9, (size, 7), generator=generator) for size in SIZES]
    vectors = [torch.randn(size, 6, dtype=torch.float64, generator=generator) for size in SIZES]
    labels = [torch.randint(0, 4, (size,), generator=generator) for size in SIZES]
    if kind == "tokens":
        module, probe = Attentive(), Probe((tokens[0], tokens[0]), (tokens[1], tokens[1]), unit="token")
    else:
        module, probe = Classifier(), Probe((vectors[0], labels[0]), (vectors[1], labels[1]))
    recipe, run, item = Recipe("r.py", 1, {"probe": lambda run: probe}), Run("lab", "a", {}), PASSES[name]
    model = Model(module.eval(), recipe, torch.device("cpu"))
    needs = {"recipe": recipe, "run": run, "model": model, "head": head(model, recipe, run)}
    options = {**{each.name: each.default for each in item.options}, **SETTINGS.get(name, {})}
    taps = item.taps(**options) if callable(item.taps) else item.taps

    def make() -> Parts:
        return Parts(lambda: item(*(needs[need] for need in item.needs), **options))

    wanted = {name: Wanted(make, item.gradients, taps)}
    found = traverse(model, probe, wanted, at_most=3, head=needs["head"])[name]
    assert isinstance(found, Parts), found
    return found


def merged(*parts: Mergeable[Batch, Any]) -> Any:
    """The result of the first one, given all others; they themselves stay as they are."""
    first, *others = copy.deepcopy(parts)
    for each in others:
        first.merge(each)
    return first.result()


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Everything that a result consists of, with the way to it."""
    if hasattr(value, "matrix"):
        yield f"{place}.matrix", value.matrix()
        return
    parts: dict[str, Any] = {}
    if isinstance(value, Mapping):
        parts.update({f"{place}[{key}]": each for key, each in value.items()})
    if isinstance(value, list | tuple | range):
        parts.update({f"{place}[{number}]": each for number, each in enumerate(value)})
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        parts.update({f"{place}.{key}": each for key, each in getattr(value, "__dict__", {}).items()})
    for key, each in parts.items():
        yield from leaves(each, key)
    if not parts:
        yield place, value


def alike(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=tolerance) or (math.isnan(one) and math.isnan(other))
    if not isinstance(one, torch.Tensor):
        return bool(one == other)
    if not one.is_floating_point():
        return torch.equal(one, other)
    largest = max([0.0, *(abs(each) for each in one.flatten().tolist() if math.isfinite(each))])
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=tolerance * largest, equal_nan=True)


def differing(one: Any, other: Any, tolerance: float) -> list[str]:
    """Where two results are not the same."""
    here, there = dict(leaves(one)), dict(leaves(other))
    missing = sorted(here.keys() ^ there.keys())
    return missing + [place for place in here if place in there and not alike(here[place], there[place], tolerance)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_parts_that_are_merged_are_the_whole(name: str, kind: str):
    parts = filled(name, kind)
    tolerance = 1e-9 if name in SUMS else 0.0
    empty = parts.make()
    halves = (parts.even, parts.odd)
    ways = [halves, halves[::-1], (parts.odd, empty, parts.even), (empty, *halves), (*halves, empty)]
    found = [merged(*way) for way in ways]
    lone = [merged(parts.whole, empty), merged(empty, parts.whole)]
    whole = parts.whole.result()
    assert sum(isinstance(each, torch.Tensor | float) for _, each in leaves(whole)) >= 2
    for result in found:
        assert differing(whole, result, tolerance) == []
    for result in lone:
        assert differing(whole, result, 0.0) == []


@pytest.mark.parametrize("name", [name for name in BUNDLED if name != "representations"])  # which has no part's result
def test_a_part_is_not_the_whole(name: str):
    parts = filled(name, "tokens")
    assert differing(parts.whole.result(), parts.even.result(), 1e-9)


def test_decisions_that_could_not_be_kept_are_bounded(monkeypatch: pytest.MonkeyPatch):
    exact = filled("class_moments", "classes").whole.result()["heldout"].disagreement
    monkeypatch.setattr(class_moments, "BUFFER", 300)  # bytes: one batch is less, two are more
    parts = filled("class_moments", "classes")
    bounded = merged(parts.even, parts.odd)["heldout"].disagreement
    assert parts.whole.result()["heldout"].disagreement == exact
    assert merged(parts.whole, parts.make())["heldout"].disagreement == exact
    assert 0 < exact.value < 1
    assert bounded.low <= exact.value <= bounded.high
    assert bounded.low < bounded.high
