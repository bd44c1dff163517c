"""A network's outputs as rows of numbers, and the directions among them in which gradients are taken."""

import math
from typing import Any

import torch
from torch import nn

from sounding.contract import Unavailable


class Directions:
    """Unit vectors of the outputs, or random signs whose outer products sum to the identity in the mean."""

    def __init__(self, outputs: int, most: int, seed: int) -> None:
        self._outputs, self._seed = outputs, seed
        self._count = min(outputs, most)

    def __len__(self) -> int:
        return self._count

    def get(self, number: int, like: torch.Tensor) -> torch.Tensor:
        """One of them, of the type and on the device of `like`."""
        if self._count == self._outputs:
            return nn.functional.one_hot(torch.tensor(number), self._outputs).to(like)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        signs = torch.randint(0, 2, (self._outputs,), generator=generator) * 2 - 1
        return torch.div(signs.to(like), math.sqrt(self._count))


def flat(outputs: Any, examples: int) -> torch.Tensor:
    """Outputs as [examples, all of one example's]. Raises Unavailable for what has no such shape."""
    if not isinstance(outputs, torch.Tensor) or not outputs.is_floating_point() or len(outputs) != examples:
        raise Unavailable(
            f"the network's outputs are {_told(outputs)} for {examples} examples; a kernel needs a tensor of one row "
            "per example: return one from `forward` in the recipe"
        )
    return outputs.reshape(examples, -1)


def _told(outputs: object) -> str:
    return f"of shape {list(outputs.shape)}" if isinstance(outputs, torch.Tensor) else f"a {type(outputs).__name__}"
