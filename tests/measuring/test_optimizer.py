"""Optimizers as torch itself stores them: recognised, and their state given to the right weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Unavailable
from sounding.opening import open_checkpoint
from sounding.passes.optimizer import optimizer, recognise
from sounding.passes.weights import weights
from sounding.records import Checkpoint


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def stepped(model: Any, optimizer: Any):
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "sgd"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "sgd"),
        (lambda p: torch.optim.Adam(p, lr=0.1), "adam"),
        (lambda p: torch.optim.AdamW(p, lr=0.1), "adamw"),
        (lambda p: torch.optim.RMSprop(p, lr=0.1), "rmsprop"),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), "adagrad"),
        (lambda p: torch.optim.Adadelta(p, lr=0.1), "adadelta"),
    ],
)
def test_torchs_own_are_recognised(make: Any, name: str):
    model = network()
    stored = stepped(model, make(model.parameters())).state_dict()
    assert recognise(stored["state"], stored["param_groups"]) == name


def test_older_torch_did_not_tell_adam_from_adamw():
    state = {0: {"step": 1, "exp_avg": 0, "exp_avg_sq": 0}}
    assert recognise(state, [{"lr": 1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}]) == "adam or adamw"
    assert recognise({0: {"exp_avg": 0}}, [{"lr": 1, "betas": (0.9, 0.99)}]) == "lion"
    assert recognise({0: {"row": 0}}, [{"lr": 1}]) == "unknown"


def stored(save: Callable[..., Checkpoint], model: Any, optimizer: Any):
    return save({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def assert_moments(found: Any, model: Any, optimizer: Any):
    for name, parameter in model.named_parameters():
        assert torch.equal(found.state[name]["exp_avg"], optimizer.state[parameter]["exp_avg"]), name
    assert set(found.state) == {name for name, _ in model.named_parameters()}


def test_state_by_name_in_the_order_of_the_weights(save: Callable[..., Checkpoint]):
    model = network()
    adam = stepped(model, torch.optim.AdamW(model.parameters(), lr=0.25, weight_decay=0.5, betas=(0.8, 0.9)))
    with open_checkpoint(stored(save, model, adam).path) as opened:
        found = optimizer(opened, weights(opened, ""))
        assert found.mapping == "by the order of the weights"
        assert (found.groups[0].number("lr"), found.groups[0].number("weight_decay")) == (0.25, 0.5)
        assert tuple(found.groups[0].settings["betas"]) == (0.8, 0.9)
        assert found.groups[0].number("betas") is None
        assert len(found.groups[0].parameters) == 6
        assert_moments(found, model, adam)
        del found


def test_state_by_name_with_matrices_and_vectors_in_two_groups(save: Callable[..., Checkpoint]):
    model = network()
    groups = [
        {"params": [each for each in model.parameters() if each.ndim >= 2], "weight_decay": 0.1},
        {"params": [each for each in model.parameters() if each.ndim < 2], "weight_decay": 0.0},
    ]
    adam = stepped(model, torch.optim.AdamW(groups, lr=0.1))
    with open_checkpoint(stored(save, model, adam).path) as opened:
        found = optimizer(opened, weights(opened, ""))
        assert "matrices in the first group" in found.mapping
        assert found.groups[0].parameters == ("0.weight", "2.weight")
        assert_moments(found, model, adam)
        del found


def test_state_by_the_names_that_torch_stored(save: Callable[..., Checkpoint]):
    model = network()
    reversed_names = list(model.named_parameters())[::-1]
    adam = stepped(model, torch.optim.AdamW(reversed_names, lr=0.1))
    with open_checkpoint(stored(save, model, adam).path) as opened:
        found = optimizer(opened, weights(opened, ""))
        assert found.mapping == "by the names stored in the parameter groups"
        assert_moments(found, model, adam)
        del found


def test_an_order_that_fits_no_shapes_is_not_guessed(save: Callable[..., Checkpoint]):
    model = network()
    adam = stepped(model, torch.optim.AdamW(list(model.parameters())[::-1], lr=0.1))
    with open_checkpoint(stored(save, model, adam).path) as opened:
        found = optimizer(opened, weights(opened, ""))
        assert dict(found.state) == {}
        assert found.groups[0].parameters == ()
        assert found.mapping.startswith("unknown")


def test_without_an_optimizer_its_users_are_skipped(save: Callable[..., Checkpoint]):
    with open_checkpoint(save({"model": network().state_dict()}).path) as opened, pytest.raises(Unavailable):
        optimizer(opened, weights(opened, ""))
