"""Sums that stay right for large tensors, and the precision a device offers."""

from collections.abc import Iterator

import torch

CHUNK = 1 << 16  # elements: in float64 they stay in a core's cache, where summing is twice as fast as from memory


def accumulating(device: torch.device) -> torch.dtype:
    """The type to sum in: float64, or float32 on devices without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor's elements as they are stored, a piece at a time: a mapped file is read as one goes."""
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        yield flat[start : start + CHUNK]


def chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The same in float64: the whole is never copied."""
    exact = accumulating(tensor.device)
    return (piece.to(exact) for piece in pieces(tensor))


def sum_of_squares(tensor: torch.Tensor) -> float:
    """‖tensor‖² in float64, a chunk at a time: `torch.norm` of a large float32 tensor is off by up to 2e-3."""
    return sum(float(torch.dot(chunk, chunk)) for chunk in chunks(tensor))
