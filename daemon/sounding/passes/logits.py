"""How a network's logits come from what its last layer puts out: which rows, and what is done to them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from sounding.passes.affine import close, some_rows

Reading: TypeAlias = Literal["each", "mean", "position", "first", "last"]
# each      every row is one of the logits'
# mean      logits are the mean over positions (or over the image)
# position  logits are one position's, another one for every example
# first, last  logits leave out positions at the end, or at the beginning

_EXACT = {torch.float64: 1e-12, torch.float32: 1e-5}  # relative: nothing is multiplied any more, at most summed
_COARSE = 1e-2
_HALVINGS = 80


@dataclass(frozen=True)
class Link:
    """What turns W x + b into the logits: a factor, or a function that keeps their order."""

    words: str = ""
    scale: float = 1.0


def as_rows(logits: torch.Tensor, classes: int) -> torch.Tensor | None:
    """Logits as [n, …, classes]; None where they cannot be."""
    if logits.ndim > 1 and logits.shape[-1] == classes:
        return logits
    if logits.ndim > 2 and logits.shape[1] == classes:
        return logits.movedim(1, -1)
    return logits.unsqueeze(-1) if classes == 1 else None


def readings(made: torch.Tensor, wanted: torch.Tensor) -> Iterator[Reading]:
    """The ways in which rows of a layer [n, …, k] may become rows of logits [n, …, classes]."""
    if made.shape[:-1].numel() == wanted.shape[:-1].numel():
        yield "each"
    elif made.ndim > 2 and wanted.ndim == 2 and len(made) == len(wanted):
        yield "mean"
        yield "position"
    elif made.ndim == wanted.ndim == 3 and len(made) == len(wanted) and made.shape[1] > wanted.shape[1]:
        yield "first"
        yield "last"


def read_rows(
    rows: torch.Tensor, reading: Reading, leading: tuple[int, ...], made: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Rows [n, …, k] as those of logits with dimensions `leading`, [*leading, k].

    By "position" the rows are those where what the layer `made` is nearest to the `wanted` logits.
    """
    if reading == "each":
        return rows.reshape(*leading, rows.shape[-1])
    if reading == "mean":
        return rows.flatten(1, -2).mean(1)
    if reading == "position":
        return _at(rows.flatten(1, -2), _nearest(made.flatten(1, -2), wanted))
    return rows[:, : leading[1]] if reading == "first" else rows[:, -leading[1] :]


def read_logits(made: torch.Tensor, wanted: torch.Tensor, reading: Reading) -> torch.Tensor:
    """What the layer made, as `reading` has it."""
    return read_rows(made, reading, tuple(wanted.shape[:-1]), made, wanted)


def link_between(made: torch.Tensor, logits: torch.Tensor) -> Link | None:
    """What makes `logits` of `made`, both [n, …, classes]; None where nothing that is known does."""
    tolerance = _EXACT.get(logits.dtype, _COARSE)
    made, logits = (some_rows(each.flatten(0, -2)).double() for each in (made, logits))
    if close(made, logits, tolerance):
        return Link()
    if made.shape[-1] > 1 and close(made.log_softmax(-1), logits, tolerance):
        return Link("the network puts out their log-softmax")
    if made.shape[-1] > 1 and close(made.softmax(-1), logits, tolerance):
        return Link("the network puts out their softmax")
    scale = float((made * logits).sum() / (made * made).sum())
    if scale > 0 and math.isfinite(scale) and close(scale * made, logits, tolerance):
        return Link(f"times {scale:.6g}", scale)
    cap = _cap(made.flatten(), logits.flatten())
    if cap is not None and close(cap * (made / cap).tanh(), logits, tolerance):
        return Link(f"softcapped at {cap:.4g}")
    return None


def _cap(made: torch.Tensor, logits: torch.Tensor) -> float | None:
    """The c of c·tanh(z/c) that fits where z is largest, by bisection; None where there is none."""
    place = int(made.abs().argmax())
    z, wanted = abs(float(made[place])), abs(float(logits[place]))
    if not 0 < wanted < z:
        return None
    low, high = wanted, wanted
    while high * math.tanh(z / high) < wanted and high < 1e12:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * math.tanh(z / middle) < wanted else (low, middle)
    return high


def _nearest(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of every example the position (the last of equals) whose logits point as the wanted ones do, [n]."""
    distances = (made.double() - wanted.double().unsqueeze(1)).abs().amax(-1)
    return distances.shape[1] - 1 - distances.flip(1).argmin(1)


def _at(rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return rows[torch.arange(len(rows), device=rows.device), positions]
