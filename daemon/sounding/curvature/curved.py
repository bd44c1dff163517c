"""A matrix of the mean loss as its users receive it, with what its numbers rest on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from sounding.curvature.operator import Layout, Operator

Apply: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Facts:
    """What an operator's numbers rest on, to be stored beside them."""

    matrix: str  # hessian, ggn or fisher
    split: str
    examples: int
    subset: str  # digest of the examples and their order
    batch_norm: str  # "eval", "train", or "none" where the network has no such layer
    batch_size: int  # of the batches that BatchNorm normalised by; 0 in evaluation mode
    parameters: int
    block: str  # pattern of the parameters' names; "" is all that were selected
    loss: str  # whose loss it is, and over what the mean is taken
    engine: str  # how products are computed
    dtype: str  # and in which type: float64 where float32 leaves nothing but rounding
    weight_decay: str = ""  # what was added for weight decay that acts through the gradient
    preconditioner: str = ""


class Curved(Operator):
    """A matrix of the mean loss; `layout` says which element of its vectors is which parameter's."""

    def __init__(self, layout: Layout, facts: Facts, device: torch.device, dtype: torch.dtype, apply: Apply) -> None:
        self.layout = layout
        self.facts = facts
        super().__init__(layout.size, device, dtype, apply)

    def plus(self, diagonal: torch.Tensor, words: str) -> "Curved":
        """The matrix plus a diagonal, for weight decay."""

        def apply(vectors: torch.Tensor) -> torch.Tensor:
            return self.matmat(vectors).add_(vectors * diagonal)

        return Curved(self.layout, replace(self.facts, weight_decay=words), self.device, self.dtype, apply)

    def scaled(self, diagonal: torch.Tensor, words: str) -> "Curved":
        """S·A·S for a diagonal S, a preconditioner's inverse root."""

        def apply(vectors: torch.Tensor) -> torch.Tensor:
            return self.matmat(vectors * diagonal).mul_(diagonal)

        return Curved(self.layout, replace(self.facts, preconditioner=words), self.device, self.dtype, apply)
