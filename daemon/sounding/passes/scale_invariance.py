"""The pass `scale_invariance`: which weights may be rescaled without any effect on the network, as the names tell."""

import itertools
import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sounding.contract import shared_pass
from sounding.errors import SoundingError
from sounding.keyed import Keyed
from sounding.passes.magnitudes import Magnitudes
from sounding.passes.weights import Weights

Method = Literal["symmetry", "structure", "pattern"]

_STATISTICS = "running_var"
_HEAD_NORMS = re.compile(r"(.*\.|^)(?P<which>q|k|query|key)_(layer)?norm\.(weight|scale)$")
_SPECTRAL = (("weight_orig", "weight_u"), ("weight.original", "weight.0._u"))  # the weight, and a vector beside it
_NUMBERED = re.compile(r"\d+$")


@dataclass(frozen=True)
class Invariance:
    """How a weight is scale invariant: each of `slices` equal runs of its rows by itself, as `method` found."""

    slices: int
    method: Method


class ScaleInvariance(Keyed[str, Invariance]):
    """The scale-invariant weights by name. A weight that is not there may still be: `method` says who looked."""

    @property
    def method(self) -> str:
        """The methods that found something, joined by " + "; "structure" where nothing was found."""
        return " + ".join(sorted({each.method for each in self.values()})) or "structure"

    def norm(self, magnitudes: Magnitudes) -> float:
        """Norm of all scale-invariant weights taken as one vector."""
        return math.sqrt(sum(magnitudes[name].squares for name in self if name in magnitudes))


@shared_pass(version=1)
def scale_invariance(weights: Weights, *, patterns: tuple[str, ...] = ()) -> ScaleInvariance:
    """By structure, which is proof; then those that match the operator's regular expressions `patterns`."""
    found = {name: Invariance(slices, "structure") for name, slices in by_structure(weights).items()}
    try:
        expressions = [re.compile(each) for each in patterns]
    except re.error as error:
        raise SoundingError(
            f"[passes.scale_invariance] patterns: {error.pattern!r} is no regular expression: {error}."
        ) from None
    for name in weights.parameters():
        if name not in found and any(each.search(name) for each in expressions):
            found[name] = Invariance(1, "pattern")
    return ScaleInvariance({name: found[name] for name in weights.parameters() if name in found})


def by_structure(weights: Weights) -> dict[str, int]:
    """Scale-invariant weights and their independent slices, as far as names and shapes alone prove it.

    Three things do: BatchNorm's statistics straight after a weight of the same module (of as many outputs; its bias
    may lie between), the parts of a weight- or spectrally normalised weight, and norms on queries and keys over one
    head. LayerNorm leaves no trace of what it is applied to, so it proves nothing.
    """
    return {**_before_batch_norm(weights), **_normalised(weights), **_head_slices(weights)}


def _before_batch_norm(weights: Weights) -> dict[str, int]:
    if not weights.ordered:
        return {}  # what comes before what is not known
    found: dict[str, int] = {}
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in weights))
    for before, norm in itertools.pairwise(modules):
        weight, statistics = _join(before, "weight"), _join(norm, _STATISTICS)
        if weight not in weights or statistics not in weights or _join(before, _STATISTICS) in weights:
            continue
        shape = weights.shape(weight)
        if len(shape) >= 2 and weights.shape(statistics) == shape[:1] and _neighbours(before, norm):
            found[weight] = shape[0]
    return found


def _neighbours(before: str, norm: str) -> bool:
    """Whether two modules lie side by side in one, numbered alike or in turn (`conv1` and `bn1`, or then `bn2`).

    Where all convolutions are registered before all norms, neighbours in the file are none in the network.
    """
    (where, _, one), (there, _, two) = before.rpartition("."), norm.rpartition(".")
    numbers = [int(match[0]) if (match := _NUMBERED.search(each)) else None for each in (one, two)]
    if where != there:
        return False
    return None in numbers or numbers[1] in (numbers[0], (numbers[0] or 0) + 1)


def _normalised(weights: Weights) -> dict[str, int]:
    """Directions of weight normalisation (by row), and weights that are divided by their spectral norm."""
    found: dict[str, int] = {}
    for name in weights:
        if name.endswith("weight_v") and name[:-1] + "g" in weights:
            found[name] = math.prod(weights.shape(name[:-1] + "g"))
        elif name.endswith("parametrizations.weight.original1") and name[:-1] + "0" in weights:
            found[name] = math.prod(weights.shape(name[:-1] + "0"))
        elif any(name.endswith(own) and name.removesuffix(own) + vector in weights for own, vector in _SPECTRAL):
            found[name] = 1
    return {name: slices for name, slices in found.items() if _rows(weights, name) % slices == 0}


def _head_slices(weights: Weights) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in weights:
        match = _HEAD_NORMS.match(name)
        if match is None:
            continue
        parent, which = match[1], match["which"]
        projection = next(
            (each for each in (f"{parent}{which}_proj", f"{parent}{which}") if f"{each}.weight" in weights), ""
        )
        size = math.prod(weights.shape(name))
        if projection and _no_bias(weights, projection) and _rows(weights, f"{projection}.weight") % size == 0:
            found[f"{projection}.weight"] = _rows(weights, f"{projection}.weight") // size
    return found


def _no_bias(weights: Weights, module: str) -> bool:
    """Whether a bias is missing or zero: added to what is normalised, it would have to be rescaled too."""
    bias = f"{module}.bias"
    return bias not in weights or not bool(np.any(weights[bias].float().numpy()))


def _rows(weights: Weights, name: str) -> int:
    return weights.shape(name)[0] if weights.shape(name) else 1


def _join(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf
