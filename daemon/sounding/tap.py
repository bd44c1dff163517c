"""Taps: what an accumulator wants to see from inside the network while the probe is gone through."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from sounding.errors import SoundingError

Reduce: TypeAlias = Literal["none", "pool", "mean", "last", "vector", "flatten", "project"]
Side: TypeAlias = Literal["output", "input"]


@dataclass(frozen=True, slots=True)
class Tap:
    """One wish, made by one of the class methods: `Tap.head()`, `Tap.module("layer*", reduce="pool")` and so on.

    In `update(batch)`, `batch.taps[name]` then maps names of modules to what was seen there.
    """

    kind: Literal["head", "module", "blocks", "linear", "attention"]
    pattern: str = "*"
    reduce: Reduce = "none"
    of: Side = "output"
    required: bool = True

    @property
    def about_the_head(self) -> bool:
        """Whether the network's head has to be looked for."""
        return self.kind in ("head", "blocks")

    @classmethod
    def head(cls, reduce: Reduce = "none", *, required: bool = True) -> "Tap":
        """What enters the classifier or unembedding: [examples, d], or [examples, positions, d] for sequences.

        What a tap cannot see makes its accumulator unavailable, unless it is not `required`: then there is nothing
        in the mapping, and the reason is in its `missing`.
        """
        _require("reduce", reduce, get_args(Reduce))
        return cls("head", reduce=reduce, required=required)

    @classmethod
    def module(cls, pattern: str, reduce: Reduce = "none", of: Side = "output", *, required: bool = True) -> "Tap":
        """What modules whose names match `pattern` (as file names do, `*` over dots too) put out or take in.

        `reduce` is applied while the network runs, so that no more than its result is kept:
        "pool" averages over space ([n, channels, …] → [n, channels]), "mean" and "last" over tokens that count
        ([n, tokens, d] → [n, d]), "vector" is whichever of "pool" and "mean" fits the number of dimensions,
        "flatten" gives [n, everything], and "project" the same by a fixed random projection where it is longer
        than 4,096. Tokens count where the inputs' `attention_mask` says so, else where the loss has weight.
        """
        _require("reduce", reduce, get_args(Reduce))
        _require("of", of, get_args(Side))
        return cls("module", pattern, reduce, of, required)

    @classmethod
    def blocks(cls, reduce: Reduce = "vector", *, required: bool = True) -> "Tap":
        """What the network's top-level blocks put out: ResNet's stages, a transformer's layers, an MLP's."""
        _require("reduce", reduce, get_args(Reduce))
        return cls("blocks", "*", reduce, required=required)

    @classmethod
    def linear(cls, pattern: str = "*") -> "Tap":
        """Inputs of `nn.Linear` modules, and gradients of the batch's summed loss at their outputs (train split)."""
        return cls("linear", pattern)

    @classmethod
    def attention(cls) -> "Tap":
        """Queries, keys, scale and mask of every attention, by the name of the module that it happens in."""
        return cls("attention")


def _require(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SoundingError(f"a tap's `{name}` is {value!r}, expected one of: {', '.join(known)}.")
