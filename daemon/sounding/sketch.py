"""Sketches: short vectors whose inner products stand for those of vectors too long to keep.

A vector is cut into rows of the sketch's length; every row is turned round by a random amount, every element gets a
random sign, and the rows are summed (a count sketch: Charikar, Chen and Farach-Colton 2002). Inner products are right
on average, with a standard error of at most sqrt(2 / length) of the product of the norms, usually 1 / sqrt(length).
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from sounding.numbers import pieces


def sketch(tensors: Iterable[tuple[str, torch.Tensor]], length: int, seed: int = 0) -> NDArray[np.float64]:
    """The sketch of all tensors taken as one vector, [length]; the same seed and names make sketches comparable.

    Signs depend on the tensor's name and the place in it, so a tensor that is left out changes no other's share.
    """
    total = torch.zeros(length, dtype=torch.float64)
    for name, tensor in tensors:
        generator = torch.Generator().manual_seed(_seed_of(name, seed))
        for piece in pieces(tensor):
            total += _of_piece(piece.double(), length, generator)
    found: NDArray[np.float64] = total.numpy()
    return found


def _of_piece(piece: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    rows = -(-piece.numel() // length)
    signs = torch.randint(0, 2, (rows * length,), generator=generator, dtype=torch.int8)
    turns = torch.randint(0, length, (rows, 1), generator=generator)
    padded = torch.nn.functional.pad(piece, (0, rows * length - piece.numel()))
    signed = (padded * (2 * signs - 1)).reshape(rows, length)
    places = (torch.arange(length) + turns) % length
    return torch.zeros(length, dtype=torch.float64).index_add_(0, places.reshape(-1), signed.reshape(-1))


def _seed_of(name: str, seed: int) -> int:
    """A seed that differs between tensors and is the same on every machine."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") ^ seed) % (1 << 63)
