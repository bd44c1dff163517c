"""Whether a network says the same when it is asked again: what draws random numbers has no loss to be looked at."""

from collections.abc import Callable
from typing import TypeVar

import torch

from sounding.contract import Unavailable
from sounding.seeds import preserved

SETTLED = 1e-5  # of the greatest loss: what a repeated forward pass may differ by, by summing in another order
FEW = 8  # examples that are asked twice

T = TypeVar("T")


def settled(ask: Callable[[], T], losses: Callable[[T], torch.Tensor]) -> T:
    """What `ask` gives. Raises Unavailable unless its losses are the same a second time; NaN and infinity pass."""
    with preserved(), torch.no_grad():
        found = [ask() for _ in range(2)]
    one, two = map(losses, found)
    if bool((one - two).abs().max() > SETTLED * one.abs().max()):
        raise Unavailable(
            "the network gives other losses when it is asked again (a layer draws random numbers in evaluation mode), "
            "so its loss is no function of its weights alone"
        )
    return found[0]


def counting(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Losses, with zeros for those that weigh nothing, which may be anything."""
    return torch.where(weights != 0, values, 0.0)
