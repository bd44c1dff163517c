"""Taps in a job: passes declare them, one traversal serves them all, and failures stay with those who asked."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Metric, Reading, SoundingError, Tap, accumulator, plugin
from sounding.measuring.measure import measure
from sounding.passes import Batch, Head, Predictions, Representations
from sounding.records import Ending

M = [Metric("m", unit="1", meaning="m", source="s")]


class Means:
    """The mean feature, by the head's name."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def update(self, batch: Batch) -> None:
        self.rows.append(batch.taps["features"].only)

    def result(self) -> torch.Tensor:
        return torch.cat(self.rows).mean(0)


@accumulator(version=1, taps={"features": Tap.head()})
def feature_mean() -> Means:
    """The mean of what enters the head."""
    return Means()


RECIPE = """
import torch
from sounding.recipe import Probe

def architecture(checkpoint):
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

def probe(run):
    x = torch.arange(60.0).reshape(20, 3) / 60
    return Probe(train=(x, torch.arange(20) % 2))
"""


def test_one_traversal_fills_them_all_and_a_head_that_is_not_found_costs_its_users_alone(
    save: Callable[..., Any], recipe_file: Callable[..., Any], with_plugins: Any, job_of: Any
):
    @plugin(version=1, metrics=M, cost="data")
    def of_features(feature_mean: torch.Tensor, head: Head):
        yield Reading("m", float((feature_mean @ head.weight.T).sum()))

    @plugin(version=1, metrics=M, cost="data")
    def of_losses(predictions: Predictions):
        yield Reading("m", predictions["train"].mean_loss().value)

    @plugin(version=1, metrics=M, cost="data")
    def of_layers(representations: Representations):
        yield Reading("m", float(len(representations)))

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    checkpoint = save({"model": net.state_dict()})
    plugins = (of_features, of_losses, of_layers)
    loaded = with_plugins(*plugins, feature_mean)
    good = measure(job_of(checkpoint, *plugins, recipe=recipe_file(RECIPE)), loaded)
    assert [each.ending for each in good] == [Ending.OK] * 3
    x = torch.arange(60.0).reshape(20, 3) / 60
    with torch.no_grad():
        expected = float((net[1](net[0](x)).mean(0) @ net[2].weight.T).sum())
    assert good[0].findings[0].value == pytest.approx(expected, rel=1e-5)
    assert good[2].findings[0].value == 2

    squared = RECIPE + "\ndef forward(model, inputs):\n    return model(inputs) ** 2\n"
    bad = measure(job_of(checkpoint, *plugins, recipe=recipe_file(squared)), loaded)
    assert [each.ending for each in bad] == [Ending.SKIPPED, Ending.OK, Ending.OK]
    assert 'def head(model): return "2"' in bad[0].reason


def _by_layer(*, layer: str) -> Mapping[str, Tap]:
    return {"features": Tap.module(layer)}


@accumulator(version=1, taps=_by_layer)
def layer_mean(*, layer: str = "0") -> Means:
    """The mean of what a layer puts out."""
    return Means()


def test_taps_may_depend_on_the_settings_of_their_pass(linear: Any, with_plugins: Any, job_of: Any):
    @plugin(version=1, metrics=M, cost="data")
    def widths(layer_mean: torch.Tensor):
        yield Reading("m", float(len(layer_mean)))

    checkpoint, recipe = linear
    loaded = with_plugins(widths, layer_mean)
    for layer, words in (("", ""), ("fc", "no module of the network is named `fc`")):
        job = job_of(checkpoint, widths, recipe=recipe, passes={"layer_mean": {"layer": layer}})
        (result,) = measure(job, loaded)
        assert result.ending is (Ending.SKIPPED if words else Ending.OK)
        assert words in result.reason


def test_taps_that_are_none_are_refused():
    with pytest.raises(SoundingError, match="`taps` must map names to `Tap`s"):
        accumulator(version=1, taps={"features": "head"})(feature_mean.function)  # type: ignore[dict-item]
