"""From what a layer puts out to a vector per example, while the network runs."""

import functools

import torch
from torch import nn

from sounding.contract import Unavailable
from sounding.tap import Reduce

MOST = 4096  # values per example that a projection leaves
_OVER_TOKENS = ("mean", "last")


def fitting(reduce: Reduce, tensor: torch.Tensor) -> Reduce:
    """What "vector" means for this tensor; any other reduction as it is."""
    if reduce != "vector":
        return reduce
    return "mean" if tensor.ndim == 3 else "pool" if tensor.ndim > 3 else "none"


def needs_tokens(reduce: Reduce, tensor: torch.Tensor) -> bool:
    """Whether it matters which positions count."""
    return fitting(reduce, tensor) in _OVER_TOKENS


def reduced(tensor: torch.Tensor, reduce: Reduce, module: nn.Module, counted: torch.Tensor | None) -> torch.Tensor:
    """[n, …] as `reduce` says; never a view of what was given, which the network may write over.

    `counted` [n, positions] tells which tokens count, all where it is None. An example without any counted token
    becomes zeros. Raises Unavailable, in words without the layer's name, where the dimensions do not fit.
    """
    way = fitting(reduce, tensor)
    if way in _OVER_TOKENS and tensor.ndim == 2:
        return tensor.clone()
    if way == "pool":
        return _pooled(tensor, module)
    if way in _OVER_TOKENS:
        return _over_tokens(tensor, way == "last", counted)
    if way == "none":
        return tensor.clone()
    flat = tensor.flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1)
    return projected(flat) if way == "project" and flat.shape[1] > MOST else flat.clone()


def projected(flat: torch.Tensor) -> torch.Tensor:
    """[n, d] → [n, 4,096] by a random projection that depends on d alone; inner products are kept on average.

    A count sketch: values get random signs, rows of 4,096 of them are turned round by random amounts and summed. That
    takes no matrix, and sums in a fixed order on every device.
    """
    signs, places = _sketching(flat.shape[1])
    padded = torch.nn.functional.pad(flat, (0, signs.numel() - flat.shape[1]))
    signed = (padded * signs.to(flat.device, flat.dtype)).reshape(len(flat), -1, MOST)
    turned = signed.gather(2, places.to(flat.device).expand(len(flat), -1, -1))
    return turned.sum(1)


@functools.lru_cache(maxsize=8)
def _sketching(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Signs of every value, and where each place of the result finds its value in every row."""
    generator = torch.Generator().manual_seed(width)
    rows = -(-width // MOST)
    signs = 2 * torch.randint(0, 2, (rows * MOST,), generator=generator, dtype=torch.int8) - 1
    turns = torch.randint(0, MOST, (rows, 1), generator=generator)
    return signs, (torch.arange(MOST) + turns) % MOST


def _pooled(tensor: torch.Tensor, module: nn.Module) -> torch.Tensor:
    if tensor.ndim < 3:
        return tensor.clone()
    if _channels_last(tensor, module):
        return tensor.flatten(1, -2).mean(1)
    return tensor.flatten(2).mean(2)


def _channels_last(tensor: torch.Tensor, module: nn.Module) -> bool:
    """Whether the last dimension, and not the second, is one that the layer's own weights have."""
    widths = {size for each in module.parameters() for size in each.shape[:1]}
    return tensor.shape[-1] in widths and tensor.shape[1] not in widths


def _over_tokens(tensor: torch.Tensor, last: bool, counted: torch.Tensor | None) -> torch.Tensor:
    if tensor.ndim != 3:
        raise Unavailable(f"it is of shape {tuple(tensor.shape)}, and tokens are taken from [n, tokens, d]")
    if counted is None:
        return tensor[:, -1].clone() if last else tensor.mean(1)
    if counted.shape != tensor.shape[:2]:
        raise Unavailable(
            f"it has {tensor.shape[1]} positions, and {counted.shape[1]} are said to count or not; "
            'tap it with reduce="none"'
        )
    if last:
        order = torch.arange(1, counted.shape[1] + 1, device=counted.device) * counted
        picked = tensor[torch.arange(len(tensor), device=tensor.device), order.argmax(1)]
        return torch.where(counted.any(1, keepdim=True), picked, 0)
    kept = torch.where(counted.unsqueeze(-1), tensor, 0)
    return kept.sum(1) / counted.sum(1, keepdim=True).clamp(min=1).to(tensor.dtype)
