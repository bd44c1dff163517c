"""Log partition functions of known logits, whatever the batches, and of the positions that count only."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Unavailable
from sounding.batch import Batch
from sounding.passes.logit_statistics import logit_statistics
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.output_logits import output_logits


def told(findings: Any) -> dict[tuple[str, str], Reading]:
    return {(each.metric, each.split): each for each in findings if isinstance(each, Reading)}


def test_of_examples(sounding_plugin: Trial):
    inputs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(4, 3)
    probe = Probe(train=(inputs, torch.zeros(50, dtype=torch.long)), heldout=(inputs[:1], torch.ones(1).long()))
    readings = told(sounding_plugin(output_logits, model=model, probe=probe))
    logits = model(inputs).detach().double()
    log_z = logits.exp().sum(1).log()
    assert readings["log_z_mean", "train"].value == pytest.approx(float(log_z.mean()), rel=1e-5)
    assert readings["log_z_mean", "train"].stderr == pytest.approx(float(log_z.std()) / math.sqrt(50), rel=1e-4)
    assert readings["log_z_squared_mean", "train"].value == pytest.approx(float((log_z**2).mean()), rel=1e-5)
    assert readings["log_z_max", "train"].value == pytest.approx(float(log_z.max()), rel=1e-5)
    assert readings["max_logit", "train"].value == pytest.approx(float(logits.max()), rel=1e-6)
    assert readings["min_logit", "train"].value == pytest.approx(float(logits.min()), rel=1e-6)
    assert readings["max_abs_logit", "train"].value == pytest.approx(float(logits.abs().max()), rel=1e-6)
    assert readings["log_z_mean", "heldout"].stderr is None


def test_of_tokens_that_count(sounding_plugin: Trial):
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 2)
            with torch.no_grad():
                self.table.weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 3.0], [100.0, -900.0]]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x)

    tokens = torch.tensor([[0, 1, 2], [0, 2, 2]])
    targets = torch.tensor([[0, 1, -100], [0, -100, -100]])  # the third row of the table never counts
    readings = told(sounding_plugin(output_logits, model=Table(), probe=Probe(train=(tokens, targets), unit="token")))
    two = math.log(2)
    assert readings["log_z_mean", "train"].value == pytest.approx((two + (3 + two) + two) / 3, rel=1e-6)
    assert readings["log_z_squared_mean", "train"].value == pytest.approx((2 * two**2 + (3 + two) ** 2) / 3, rel=1e-6)
    assert readings["log_z_max", "train"].value == pytest.approx(3 + two)
    assert (readings["max_logit", "train"].value, readings["min_logit", "train"].value) == (3.0, 0.0)


def test_logits_that_are_no_numbers_are_seen(sounding_plugin: Trial):
    model = nn.Linear(1, 2)
    inputs = torch.tensor([[1.0], [math.nan], [2.0]])
    found = sounding_plugin(output_logits, model=model, probe=Probe(train=(inputs, torch.zeros(3).long())))
    readings = told(found)
    for metric in ("log_z_mean", "log_z_max", "max_logit", "min_logit", "max_abs_logit"):
        assert math.isnan(readings[metric, "train"].value or 0.0), metric


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [(torch.zeros(5, 3), torch.zeros(5, 3)), (torch.zeros(5), torch.zeros(5).long()), ("text", torch.zeros(5).long())],
)
def test_other_outputs_have_no_logits(outputs: Any, targets: torch.Tensor):
    batch = Batch("train", 0, 5, None, targets, outputs, torch.zeros(5), torch.ones(5))
    with pytest.raises(Unavailable, match="no logits of classes"):
        logit_statistics().update(batch)
