"""Frequencies: of images by bands, and of embeddings of a cyclic vocabulary."""

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_NOTHING = 1e-24  # of an embedding's power: less is what rounding leaves of none


def frequencies(height: int, width: int) -> torch.Tensor:
    """|f_y| + |f_x| of every entry of a two-dimensional transform, in whole periods per image, [height, width]."""
    rows, columns = (torch.fft.fftfreq(size, 1 / size).abs().round().long() for size in (height, width))
    return torch.add(rows[:, None], columns[None, :])


def band_of(images: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """What is left of images [..., height, width] of the frequencies |f_y| + |f_x| from `low` up to, not with, `high`.

    The rest of an image is the image less this.
    """
    found = frequencies(images.shape[-2], images.shape[-1]).to(images.device)
    kept = torch.fft.fft2(images.float()) * ((found >= low) & (found < high))
    left: torch.Tensor = torch.fft.ifft2(kept).real  # bands are symmetric, so that nothing imaginary is lost
    return left.to(images.dtype)


def cyclic_powers(embedding: torch.Tensor) -> Floats:
    """Share of each frequency 1 … p/2 in the power of an embedding [p, d] along its p tokens, all dimensions together.

    The mean over the tokens, frequency 0, is left out. NaN where all tokens are alike.
    """
    rows = embedding.detach().cpu().double()
    powers = (torch.fft.rfft(rows - rows.mean(0), dim=0).abs() ** 2).sum(1)[1:].numpy()
    if len(rows) % 2 == 0:
        powers[-1] /= 2  # every other frequency stands for its negative, too
    total = powers.sum()
    some = total > _NOTHING * float(rows.square().sum()) * len(rows)
    return np.asarray(powers / total if some else np.full_like(powers, np.nan), dtype=np.float64)


def effective_number(shares: Floats) -> float:
    """The inverse of the sum of squared shares: k for k equal ones."""
    return float(1 / (shares**2).sum())


def gini(shares: Floats) -> float:
    """Gini coefficient: 0 where all are equal, 1 - 1/n where one of n has everything."""
    count = len(shares)
    ranks = 2 * np.arange(1, count + 1) - count - 1
    return float((ranks * np.sort(shares)).sum() / (count * shares.sum()))
