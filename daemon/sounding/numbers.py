"""Sums that stay right for large tensors, and the precision a device offers."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK = 1 << 16  # elements: in float64 they stay in a core's cache, where summing is twice as fast as from memory
_PART = 512  # float32 products added up in float32: their sum is right to 1e-7, constant values included
_FAINT = 1e-29  # mean square below which squares of float32 values begin to vanish


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

    Converting float32 first would be exact, and twice as slow as reading the file. Parts of 512 products are right to
    1e-7 of Σ|xy| (constants, the worst case, come within 6e-8); what overflows or vanishes in float32 is done in
    float64 after all (numpy warns of an overflow unless told not to).
    """
    if x.dtype != np.float32:
        return float(np.dot(x, y))
    whole = len(x) - len(x) % _PART
    found = float(np.vecdot(x[:whole].reshape(-1, _PART), y[:whole].reshape(-1, _PART)).sum(dtype=np.float64))
    if whole < len(x):
        found += float(np.dot(x[whole:], y[whole:]))
    if _FAINT * len(x) < abs(found) < math.inf:
        return found
    return float(np.dot(x.astype(np.float64), y.astype(np.float64))) if x.any() and y.any() else 0.0


def gram(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float, float]:
    """x·x, x·y and y·y, as exact as `inner`, in less time than three of it."""
    whole = len(x) - len(x) % _PART
    if x.dtype == np.float32 and whole == len(x):
        one, two = x.reshape(-1, _PART), y.reshape(-1, _PART)
        parts = np.empty((3, len(one)), dtype=np.float32)
        for place, (left, right) in enumerate(((one, one), (one, two), (two, two))):
            np.vecdot(left, right, out=parts[place])
        sums: tuple[float, float, float] = tuple(parts.sum(axis=1, dtype=np.float64).tolist())
        if all(_FAINT * len(x) < abs(each) < math.inf for each in sums):
            return sums
    return inner(x, x), inner(x, y), inner(y, y)


def row_squares(matrix: NDArray[np.floating]) -> NDArray[np.float64]:
    """The sum of squares of every row, as exact as `inner`."""
    if matrix.dtype != np.float32:
        return np.asarray(np.vecdot(matrix, matrix), dtype=np.float64)
    rows, width = matrix.shape
    count = max(1, math.ceil(width / _PART))
    part = width // count if width % count == 0 else _PART  # equal parts where there are such: no remainder to treat
    whole = width - width % part if part else 0
    parts = matrix[:, :whole].reshape(rows, whole // part if part else 0, part)
    found = np.vecdot(parts, parts).sum(axis=1, dtype=np.float64)
    if whole < width:
        found += np.vecdot(matrix[:, whole:], matrix[:, whole:])
    if not _FAINT * width < found.min() <= found.max() < math.inf:
        doubtful = ~((found > _FAINT * width) & (found < math.inf))
        exact = matrix[doubtful].astype(np.float64)
        found[doubtful] = np.vecdot(exact, exact)
    return np.asarray(found, dtype=np.float64)
