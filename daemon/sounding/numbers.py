"""Sums that stay right for large tensors, and the precision a device offers."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK = 1 << 16  # elements: in float64 they stay in a core's cache, where summing is twice as fast as from memory
PART = 512  # float32 products added up in float32: a sum is off by 2e-7 at most, 6e-7 of constants on old processors
_SHORTEST = 32  # part of a row: shorter ones take longer than float64
FAINT = 1e-29  # mean square below which squares of float32 values begin to vanish


def accumulating(device: torch.device) -> torch.dtype:
    """The type to sum in: float64, or float32 on devices without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor's elements as they are stored, a piece at a time: a mapped file is read as one goes."""
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        yield flat[start : start + CHUNK]


def arrays(tensor: torch.Tensor, dtype: torch.dtype) -> Iterator[NDArray[np.floating]]:
    """The same as numpy's arrays of a type that numpy has; of a tensor on the CPU in that type nothing is copied."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype == dtype:
        whole = flat.numpy()
        yield from (whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK))
    else:
        yield from (piece.to(dtype).numpy() for piece in pieces(flat))


def chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The same in float64: the whole is never copied."""
    exact = accumulating(tensor.device)
    return (piece.to(exact) for piece in pieces(tensor))


def sum_of_squares(tensor: torch.Tensor) -> float:
    """‖tensor‖² in float64, a chunk at a time: `torch.norm` of a large float32 tensor is off by up to 2e-3."""
    return sum(float(torch.dot(chunk, chunk)) for chunk in chunks(tensor))


def inner(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """x·y of two vectors of one type: in float64, or of float32 in parts added in float64.

    Converting float32 first would be exact, and twice as slow as reading the file. Errors of parts of 512 products
    cancel, and of constants, where they do not, leave 2e-7 of Σ|xy| (6e-7 without AVX); what overflows or vanishes in
    float32 is done in float64 after all (numpy warns of an overflow unless told not to).
    """
    if x.dtype != np.float32:
        return float(np.dot(x, y))
    whole = len(x) - len(x) % PART
    found = float(np.vecdot(x[:whole].reshape(-1, PART), y[:whole].reshape(-1, PART)).sum(dtype=np.float64))
    if whole < len(x):
        found += float(np.dot(x[whole:], y[whole:]))
    if FAINT * len(x) < abs(found) < math.inf:
        return found
    return float(np.dot(x.astype(np.float64), y.astype(np.float64))) if x.any() and y.any() else 0.0


def gram(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float, float]:
    """x·x, x·y and y·y, as exact as `inner`, in less time than three of it."""
    whole = len(x) - len(x) % PART
    if x.dtype == np.float32 and whole == len(x):
        one, two = x.reshape(-1, PART), y.reshape(-1, PART)
        parts = np.empty((3, len(one)), dtype=np.float32)
        for place, (left, right) in enumerate(((one, one), (one, two), (two, two))):
            np.vecdot(left, right, out=parts[place])
        sums: tuple[float, float, float] = tuple(parts.sum(axis=1, dtype=np.float64).tolist())
        if all(FAINT * len(x) < abs(each) < math.inf for each in sums):
            return sums
    return inner(x, x), inner(x, y), inner(y, y)


def equal_parts(width: int) -> int:
    """The length of the longest equal parts of a row that are summed as `inner`'s; 0 where they would be too short."""
    part = next(part for part in range(min(width, PART), 0, -1) if width % part == 0)
    return part if part == width or part >= _SHORTEST else 0
