"""Queries and keys of an attention, head by head, as its weights give them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sounding.logit_bounds import Affine
from sounding.passes.weights import Weights


@dataclass(frozen=True)
class AttentionShape:
    """What weights do not tell: 0 and "" where nobody did either."""

    heads: int = 0
    key_heads: int = 0
    scale: float = 0.0  # of the logits; 0 for 1/√(width of a head)
    norms: tuple[str, ...] = ()  # modules of a block that norm what attention is given
    offset: float = 0.0  # that a norm adds to its stored gain, 1 for Gemma


@dataclass(frozen=True, eq=False)
class Projection:
    """Rows of one head: matrix [k, d] and bias [k] or None; `gain` and `shift` [k] of a norm on what comes out."""

    matrix: torch.Tensor
    bias: torch.Tensor | None
    gain: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    normed: int = 0  # numbers that norm goes over


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention layer, self-attention unless `problem` says otherwise; heads come when they are asked for."""

    name: str
    heads: int = 0
    scale: float = 1.0
    gain: torch.Tensor | None = None  # [d] of the norm before it; None where none was found
    shift: torch.Tensor | None = None
    problem: str = ""
    _rows: Mapping[str, "Rows"] = field(default_factory=dict, repr=False)

    def head(self, number: int) -> tuple[Projection, Projection]:
        """Query and key of a head; several share a key where there are fewer of those."""
        query, key = self._rows["query"], self._rows["key"]
        return query.head(number), key.head(number * key.heads // query.heads)

    def form(self, of: Projection) -> Affine | None:
        """All values that queries (or keys) of a head can have; None where no norm bounds what they are made of."""
        if of.gain is not None and of.shift is not None:
            return Affine(of.gain, of.shift, math.sqrt(of.normed))
        if self.gain is None or self.shift is None:
            return None
        fixed = of.matrix @ self.shift
        return Affine(of.matrix * self.gain, fixed if of.bias is None else fixed + of.bias, math.sqrt(len(self.gain)))


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a weight that make queries, or keys, of all heads."""

    weights: Weights
    name: str
    bias: str  # "" for none
    transposed: bool
    start: int
    width: int  # of a head
    stride: int  # from head to head
    heads: int
    norm: str  # module of a norm on what comes out; "" for none
    offset: float

    def head(self, number: int) -> Projection:
        """Those of one head, read from the file."""
        first = self.start + number * self.stride
        rows = slice(first, first + self.width)
        tensor = self.weights[self.name].detach()
        matrix = (tensor.T if self.transposed else tensor)[rows].double()
        bias = self.weights[self.bias].detach()[rows].double() if self.bias else None
        if not self.norm:
            return Projection(matrix, bias)
        gain = vector_of(self.weights, f"{self.norm}.weight") + self.offset
        shift = vector_of(self.weights, f"{self.norm}.bias") if f"{self.norm}.bias" in self.weights else 0 * gain
        whole = gain.numel()
        part = slice(number * self.width, (number + 1) * self.width) if whole > self.width else slice(None)
        return Projection(matrix, bias, gain[part], shift[part], whole)


def vector_of(weights: Weights, name: str) -> torch.Tensor:
    """A stored vector in float64."""
    return weights[name].detach().double()
