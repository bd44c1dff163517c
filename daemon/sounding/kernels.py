"""Kernel matrices on a fixed set of examples: how alike two are, and how one lies to targets. Everything in float64."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def centred(kernel: Floats) -> Floats:
    """The kernel of the same features less their mean over the examples: HKH with H = I - 11ᵀ/n."""
    rows = kernel - kernel.mean(axis=0)
    return np.asarray(rows - rows.mean(axis=1, keepdims=True), dtype=np.float64)


def gram_of(targets: NDArray[np.generic]) -> Floats:
    """Products of the targets of every two examples: one-hot where they are classes [n], else as numbers [n, …]."""
    if np.issubdtype(targets.dtype, np.integer):
        return np.asarray(targets[:, None] == targets[None, :], dtype=np.float64)
    rows = targets.reshape(len(targets), -1).astype(np.float64)
    return np.asarray(rows @ rows.T, dtype=np.float64)


def alignment(one: Floats, two: Floats) -> float:
    """⟨one, two⟩ / (‖one‖‖two‖), Frobenius; NaN where one is zero."""
    return float(np.vdot(_unit(one), _unit(two)))


def kernel_distance(one: Floats, two: Floats) -> float:
    """1 - alignment, exactly 0 for a multiple of the same and with its digits near it; NaN where one is zero."""
    return float(((_unit(one) - _unit(two)) ** 2).sum() / 2)


def alignment_by_chance(one: Floats, two: Floats) -> float:
    """The mean alignment of two centred kernels over all permutations of one's examples.

    That mean of PKPᵀ has rows that sum to 0, is the same for all pairs, and keeps the trace: tr K/(n - 1)·(I - 11ᵀ/n).
    """
    norms = np.linalg.norm(one) * np.linalg.norm(two) * (len(one) - 1)
    return float(np.trace(one) * np.trace(two) / norms) if norms else float("nan")


def eigenvalues(kernel: Floats) -> Floats:
    """Of K/n, descending, none below 0."""
    return np.asarray(np.clip(np.linalg.eigvalsh(kernel / len(kernel))[::-1], 0.0, None), dtype=np.float64)


def captured(kernel: Floats, targets: Floats) -> Floats:
    """Share of the targets' squares in the span of the kernel's k leading eigenvectors, for k from 1 on.

    `targets` is their Gram matrix. The cumulative power of Canatar, Bordelon and Pehlevan 2021.
    """
    vectors = np.linalg.eigh(kernel)[1][:, ::-1]
    powers = np.einsum("ik,ij,jk->k", vectors, targets, vectors, optimize=True)
    return np.asarray(np.cumsum(powers) / np.trace(targets), dtype=np.float64)


def _unit(kernel: Floats) -> Floats:
    norm = np.linalg.norm(kernel)
    return np.asarray(kernel / norm if norm else np.full_like(kernel, np.nan), dtype=np.float64)
