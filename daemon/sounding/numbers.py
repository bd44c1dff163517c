"""Sums that stay right for large tensors, and the precision a device offers."""

from collections.abc import Iterator

import torch

_CHUNK = 1 << 20  # elements: small enough for the cache and for temporaries, large enough to be fast


def accumulating(device: torch.device) -> torch.dtype:
    """The type to sum in: float64, or float32 on devices without it."""
    return torch.float32 if device.type == "mps" else torch.float64


def chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor's elements in float64, a piece at a time: the whole is never copied."""
    flat = tensor.detach().reshape(-1)
    exact = accumulating(flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        yield flat[start : start + _CHUNK].to(exact)


def sum_of_squares(tensor: torch.Tensor) -> float:
    """‖tensor‖² in float64, a chunk at a time: `torch.norm` of a large float32 tensor is off by up to 2e-3."""
    return sum(float(torch.dot(chunk, chunk)) for chunk in chunks(tensor))
