"""The architecture with the checkpoint's weights in it: equal outputs, ties kept, nothing left unloaded."""

from typing import Any

import pytest
import torch
from torch import nn

from sounding import SoundingError
from sounding.passes.model import load_strictly


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any):
        return self.head(self.norm(self.embed(ids)))


@pytest.fixture
def trained():
    torch.manual_seed(3)
    model = Tied()
    model(torch.arange(7))  # moves the running statistics
    return model.eval()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_outputs_are_those_of_the_saved_network(trained: Any, device: str):
    fresh = Tied().to(device)
    fresh.head.weight = fresh.embed.weight
    load_strictly(fresh, dict(trained.state_dict()))
    fresh.eval()
    assert torch.equal(fresh(torch.arange(7)), trained(torch.arange(7)))
    assert fresh.head.weight is fresh.embed.weight
    assert isinstance(fresh.embed.weight, nn.Parameter)


def test_a_tied_head_need_not_be_stored(trained: Any):
    state = {name: each for name, each in trained.state_dict().items() if name != "head.weight"}
    fresh = Tied()
    load_strictly(fresh, state)
    assert torch.equal(fresh.head.weight, trained.head.weight)


def test_a_tie_that_the_checkpoint_does_not_have_is_refused(trained: Any):
    state = {**trained.state_dict(), "head.weight": torch.zeros(7, 4)}
    with pytest.raises(SoundingError, match=r"ties `head\.weight` to `embed\.weight`"):
        load_strictly(Tied(), state)


def test_the_loaded_network_does_not_share_memory_with_the_checkpoint(trained: Any):
    state = dict(trained.state_dict())
    fresh = Tied()
    load_strictly(fresh, state)
    with torch.no_grad():
        fresh.embed.weight.zero_()
    assert state["embed.weight"].abs().sum() > 0


def test_stored_half_precision_is_computed_in_the_architectures_type(trained: Any):
    fresh = Tied()
    load_strictly(
        fresh,
        {name: each.bfloat16() if each.is_floating_point() else each for name, each in trained.state_dict().items()},
    )
    assert fresh.embed.weight.dtype == torch.float32
    assert torch.equal(fresh.embed.weight, trained.embed.weight.bfloat16().float())


def test_a_buffer_that_no_checkpoint_holds_may_not_stay_on_meta():
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("mask", torch.ones(2, 2), persistent=False)

    with torch.device("meta"):
        fresh = Masked()
    with pytest.raises(SoundingError, match="leaves `mask` on the meta device"):
        load_strictly(fresh, dict(nn.Linear(2, 2).state_dict()))


def test_strictly(trained: Any):
    with pytest.raises(SoundingError, match="shapes differ"):
        load_strictly(nn.Linear(2, 3), dict(nn.Linear(2, 4).state_dict()))
    with pytest.raises(SoundingError, match=r"Missing in the checkpoint: head\.weight"):
        load_strictly(
            nn.ModuleDict({"head": nn.Linear(2, 2, bias=False), "x": nn.Linear(1, 1)}),
            dict(nn.ModuleDict({"x": nn.Linear(1, 1)}).state_dict()),
        )
