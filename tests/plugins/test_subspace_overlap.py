"""Overlaps of spans that were turned by hand."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.passes.curvature_run import _DIRECTIONS
from sounding.recipe import Probe
from sounding.testing import Trial
from sounding_plugins.subspace_overlap import subspace_overlap

SCALES = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.1, 0.1, 0.1])


def as_it_is(outputs: Any, targets: Any, inputs: Any):
    """What the network gives is the loss."""
    return outputs


class Turned(nn.Module):
    """A quadratic whose axes 0 and 7 are turned by a buffer's angle: its Hessian is known."""

    def __init__(self, angle: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((8,), 0.1))
        self.register_buffer("angle", torch.tensor(angle))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c, s = torch.cos(self.angle), torch.sin(self.angle)
        turned = torch.stack([c * self.weight[0] + s * self.weight[7], *self.weight[1:7],
                              c * self.weight[7] - s * self.weight[0]])  # fmt: skip
        return 0.5 * (SCALES * turned.square()).sum() * x[:, 0]


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2])
def test_a_turn_by_a_known_angle(sounding_plugin: Trial, angle: float):
    _DIRECTIONS.clear()
    probe = Probe(train=(torch.ones(6, 1), torch.zeros(6)))
    found = sounding_plugin(
        subspace_overlap, model=Turned(), probe=probe, functions={"loss": as_it_is},
        checkpoint={"model": Turned(angle).state_dict()}, previous={"model": Turned().state_dict()},
    )  # fmt: skip
    values = {each.metric: each.value for each in found if isinstance(each, Reading)}
    assert values["overlap"] == pytest.approx((4 + math.cos(angle) ** 2) / 5, abs=1e-4)
    assert values["top_cosine"] == pytest.approx(abs(math.cos(angle)), abs=1e-3)
    assert values["chance"] == pytest.approx(5 / 8)


def test_remembered_vectors_give_what_computing_them_gives(sounding_plugin: Trial):
    _DIRECTIONS.clear()
    probe = Probe(train=(torch.ones(6, 1), torch.zeros(6)))
    given: dict[str, Any] = {
        "model": Turned(), "probe": probe, "functions": {"loss": as_it_is},
        "checkpoint": {"model": Turned(0.2).state_dict()}, "previous": {"model": Turned().state_dict()},
    }  # fmt: skip
    cold = sounding_plugin(subspace_overlap, **given)
    assert len(_DIRECTIONS) == 2
    assert repr(sounding_plugin(subspace_overlap, **given)) == repr(cold)


def test_a_diverged_checkpoint_has_none(sounding_plugin: Trial):
    _DIRECTIONS.clear()
    broken = Turned()
    nn.init.constant_(broken.weight, math.nan)
    found = sounding_plugin(
        subspace_overlap, model=Turned(), probe=Probe(train=(torch.ones(6, 1), torch.zeros(6))),
        functions={"loss": as_it_is}, checkpoint={"model": broken.state_dict()},
        previous={"model": Turned().state_dict()},
    )  # fmt: skip
    assert [type(each) for each in found] == [Skip]
