"""What a plugin costs: the formulas on its page, held to the examples that go through a network, counted by hooks."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Curve, Reading
from sounding.curvature import engines
from sounding.measuring.counting import Count, counted
from sounding.measuring.discovery import load
from sounding.measuring.measure import measure
from sounding.passes import curvature_run
from sounding.recipe import Probe, Recipe
from sounding.records import Checkpoint, Ending, Job, Key, Subject, Task
from sounding.stamps import stamp_of
from sounding.testing import Trial

PAGES = Path(__file__).parents[2] / "docs" / "plugins"
TRAIN, HELDOUT, WORDS, POSITIONS, CLASSES = 40, 24, 5, 6, 3
N, n = TRAIN + HELDOUT, TRAIN  # the letters of the pages: examples of the probe, and of a sample of its train split


class Sentences(nn.Module):
    """Two layers of attention over a few words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.ModuleList([layer, nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)])
        self.head = nn.Linear(8, WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        states = self.words(words)
        for layer in self.layers:
            states = layer(states)
        return self.head(states)


def rows() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, CLASSES))


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, CLASSES))


def classified(*shape: int) -> Probe:
    splits = [(torch.randn(size, *shape), torch.arange(size) % CLASSES) for size in (TRAIN, HELDOUT)]
    return Probe(train=splits[0], heldout=splits[1])


def sentences() -> Probe:
    splits = [tuple(torch.randint(WORDS, (2, size, POSITIONS))) for size in (TRAIN, HELDOUT)]
    return Probe(train=splits[0], heldout=splits[1], unit="token")  # type: ignore[arg-type]


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Probe]]] = {
    "rows": (rows, lambda: classified(8)),
    "images": (images, lambda: classified(1, 4, 4)),
    "sentences": (Sentences, sentences),
}


@dataclass(frozen=True)
class Case:
    """A plugin on one kind of network, and the formulas of its page that then hold; `given` are their letters."""

    plugin: str
    forwards: str
    backwards: str = "0"
    kind: str = "rows"
    given: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


HEAD = ("N + 4", "0")
PAIRS, EXAMPLES = ("2·n + 2", "C·n"), ("n + 4 + C·n", "2 + C·n")
C = {"C": CLASSES}
CASES = [
    Case("loss", "N"),
    Case("output_logits", "N"),
    Case("attention_logits", "N", kind="sentences"),
    Case("gradient_norm", "N", "T", given={"T": TRAIN}),
    Case("neural_collapse", *HEAD),
    Case("neural_collapse", *HEAD, kind="images", options={"depth": True}),
    Case("feature_rank", *HEAD, kind="sentences"),
    Case("angle_concentration", *HEAD, kind="sentences"),
    Case("layer_similarity", *HEAD),
    Case("similarity", "2·(N + 4)", "0"),
    Case("similarity_first", "2·(N + 4)", "0"),
    Case("symmetry", "s", "4·s", "images", given={"s": 8}),
    Case("simplicity_bias", "(r + 2)·n + (2·b + 1)·n + 2", options={"image_shape": (2, 4), "bands": 3},
         given={"n": HELDOUT, "b": 3}),
    Case("simplicity_bias", "(2·b + 1)·n + 2", kind="images", options={"bands": 2}, given={"n": HELDOUT, "b": 2}),
    Case("kernel", *PAIRS, given=C),
    Case("kernel", *EXAMPLES, kind="images", given=C),
    Case("kernel_change", "2·(2·n + 2)", "2·C·n", given=C),
    Case("kernel_drift", "5·n + 4", "(2·C + 1)·n", given=C),
    Case("gradient_agreement", "n + 32", "n + 32"),
    Case("gradient_agreement", "2·n + 34", "2·n + 34", "images"),
    Case("degeneracy", "n", "(C + 1)·n", given=C),
    Case("degeneracy", "n", "(C + 1)·n", "sentences", given={"C": WORDS * POSITIONS}),
    Case("interpolation", "11·m + 32", "64", given={"m": N}),
    Case("interpolation", "11·(m + t) + m + 32", "64", "images", given={"m": N, "t": TRAIN}),
    Case("interpolation_first", "11·m + 32", "64", given={"m": N}),
    Case("landscape_update", "13·m + 16", given={"m": N}),
    Case("landscape_update", "13·(m + t) + 16", kind="images", given={"m": N, "t": TRAIN}),
    Case("landscape", "60·m + n + 4·e + 16", "(p + 1)·n + 4·e", given={"m": N, "e": 1}),
    Case("landscape", "60·(m + t) + n + 4·e + 16", "(p + 1)·n + 4·e", "images", given={"m": N, "t": TRAIN, "e": 1}),
    Case("sam_sharpness", "(68 + w)·n + 4·b + 16", "(1 + w)·n + 2·b", options={"m": 16}, given={"b": 32}),
    Case("batch_sharpness", "k·b + 4·e", "2·k·b + 4·e", "images", given={"k": 5, "b": 8, "e": 2}),
    Case("batch_hessian", "n + a + 4·e", "n + a + P + 4·e", "images", {"a": 5 * 8 + 2 * 16, "e": 2},
         {"sizes": (8, 16)}),
    Case("sharpness", "2·(n + 4·e)", "2·(n + 4·e) + p·n", given={"e": 1}),
    Case("spectral_density", "n + 4·e", "n + 4·e + p·n", given={"e": 1}),
    Case("subspace_overlap", "2·(n + 4·e)", "2·(n + 4·e) + p·n", given={"e": 1}),
]  # fmt: skip


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Products with matrices: `p` with those of all examples, `P` by example; nothing remembered."""
    seen = {"p": 0.0, "P": 0.0}
    multiply = engines.Sum.multiply

    def counting(self: Any, vectors: torch.Tensor, places: Any) -> torch.Tensor:
        seen["p"] += len(vectors) / 2  # the fixture measures twice
        seen["P"] += len(vectors) * sum(map(len, self.chunks)) / 2
        return multiply(self, vectors, places)

    monkeypatch.setattr(engines.Sum, "multiply", counting)
    monkeypatch.setattr(curvature_run, "_MOST_BYTES", 0)
    monkeypatch.setattr(curvature_run, "_DIRECTIONS", {})
    return seen


def stated(plugin: str) -> str:
    """What the page says of costs."""
    text = (PAGES / f"{plugin}.md").read_text(encoding="utf-8")
    found = re.search(r"\*\*Cost\.\*\*(.*?)\n## ", text, re.DOTALL)
    assert found, plugin
    return found[1].replace("\n", " ")


def value(formula: str, letters: Mapping[str, float]) -> float:
    return eval(formula.replace("·", "*"), {"__builtins__": {}}, dict(letters))


def letters_of(case: Case, findings: list[Any], products: Mapping[str, float], steps: list[int]) -> dict[str, float]:
    """The letters of the formulas, those that a plugin decides as it goes from what it found."""
    ranks = [len(each.x) for each in findings if isinstance(each, Curve) and each.metric == "change_by_rank"]
    return {"N": N, "n": n, **products, "r": sum(ranks), "w": sum(steps) / 2, **case.given}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.plugin}-{case.kind}")
def test_the_page_tells_what_is_counted(
    case: Case, sounding_plugin: Trial, products: dict[str, float], monkeypatch: pytest.MonkeyPatch
):
    page = stated(case.plugin)
    for formula in (case.forwards, case.backwards):
        assert (f"`{formula}`" if formula != "0" else "no backward") in page
    plugin = load().plugins[case.plugin]
    steps = ascents(monkeypatch, plugin.function.__globals__)
    torch.manual_seed(0)
    make, probe = KINDS[case.kind]
    previous = {"model": make().state_dict()} if plugin.over == "pair" else None
    findings = sounding_plugin(
        plugin, model=make(), probe=probe(), previous=previous, attributes={"batch_size": 8}, **case.options
    )
    letters = letters_of(case, findings, products, steps)
    assert sounding_plugin.forwards == value(case.forwards, letters)
    assert sounding_plugin.backwards == value(case.backwards, letters)


def ascents(monkeypatch: pytest.MonkeyPatch, module: dict[str, Any]) -> list[int]:
    """How many steps each worst case takes, as the plugin asks for it."""
    steps: list[int] = []
    plain = module.get("ascent")

    def noting(*given: Any, **named: Any) -> Any:
        found = plain(*given, **named) if plain is not None else None
        steps.append(found.steps)
        return found

    if plain is not None:
        monkeypatch.setitem(module, "ascent", noting)
    return steps


def test_every_plugin_that_runs_the_network_has_its_costs_counted():
    bundled = {
        name: each for name, each in load().plugins.items() if each.function.__module__ == f"sounding_plugins.{name}"
    }
    assert {case.plugin for case in CASES} == {
        name for name, each in bundled.items() if each.cost in ("data", "gradient", "curvature")
    }


def test_plugins_that_report_their_forwards_report_what_is_counted(sounding_plugin: Trial):
    for name in ("simplicity_bias", "kernel"):
        torch.manual_seed(0)
        found = sounding_plugin(load().plugins[name], model=rows(), probe=classified(8))
        told = {each.metric: each.value for each in found if isinstance(each, Reading)}
        assert told["forwards"] == sounding_plugin.forwards
        assert told.get("backwards", 0.0) == sounding_plugin.backwards


def test_plugins_of_representations_share_one_traversal(tmp_path: Path):
    torch.manual_seed(0)
    count, probe = Count(), sentences()
    torch.save({"model": Sentences().state_dict()}, tmp_path / "now.pt")
    path = tmp_path / "now.pt"
    checkpoint = Checkpoint(
        "now", "lab", "a", 1, str(path), "torch", "", stamp_of(path), 1, datetime(2026, 1, 1, tzinfo=UTC)
    )
    subject = Subject("checkpoint", "lab", "a", 1, "now")
    loaded = load()
    names = ("neural_collapse", "feature_rank", "angle_concentration", "loss", "layer_similarity", "output_logits")
    tasks = [Task(Key(name, loaded.plugins[name].version, "", "", subject.identity), subject, {}) for name in names]
    recipe = Recipe(
        "recipe.py", 1, {"architecture": lambda checkpoint: counted(Sentences(), count), "probe": lambda run: probe}
    )
    results = measure(Job(1, checkpoint, tuple(tasks)), loaded, recipe)
    assert [each.ending for each in results] == [Ending.OK] * len(names)
    assert (count.forwards, count.backwards) == (N + 4, 0)
