"""The pass `spectral_norms`: the largest singular value of every matrix, with how far it has converged."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sounding.contract import shared_pass
from sounding.passes.weights import Weights
from sounding.records import Checkpoint

Floats = NDArray[np.float64]
_RUNS = 8  # whose last vectors are remembered in this process


@dataclass(frozen=True, eq=False)
class _Memory:
    """What was found last for one matrix of a run: where it started from, and what the next checkpoint starts from."""

    checkpoint_id: str
    start: "Floats | None"
    vector: Floats


_REMEMBERED: dict[tuple[str, str, str], dict[str, _Memory]] = {}


@dataclass(frozen=True, eq=False)
class Top:
    """The largest singular value `sigma` with its singular vector on the matrix's shorter side.

    `sigma` is a lower bound. `residual` is ‖WᵀWv - σ²v‖/σ²: some singular value lies within σ(1 ± residual/2), the
    largest one once it is small; where it is small against the gap to the second, the error is of its square.
    """

    sigma: float
    vector: Floats
    residual: float
    iterations: int

    @property
    def high(self) -> float:
        """An upper bound of the singular value that was approached."""
        return self.sigma * math.sqrt(1.0 + self.residual)


class SpectralNorms(Mapping[str, Top]):
    """σ₁ of every parameter with two dimensions or more (kernels as outputs × everything else), each when asked for.

    It starts from the vector that this process found for the run's last checkpoint, if any: weights turn slowly, and
    a few products do then. The same checkpoint starts from where it did, so that repeating it repeats every digit;
    otherwise the start moves a value within its residual only.
    """

    def __init__(self, weights: Weights, checkpoint_id: str, remembered: dict[str, _Memory], tolerance: float) -> None:
        parameters = weights.parameters()
        self._names = dict.fromkeys(name for name in parameters if _is_matrix(weights.shape(name)))
        self._weights = parameters
        self._checkpoint_id = checkpoint_id
        self._remembered = remembered
        self._found: dict[str, Top] = {}
        self.tolerance = tolerance

    def __getitem__(self, name: str) -> Top:
        if name not in self._found:
            if name not in self._names:
                raise KeyError(name)
            last = self._remembered.get(name)
            same = last is not None and last.checkpoint_id == self._checkpoint_id
            start = None if last is None else last.start if same else last.vector
            tensor = self._weights[name]
            top = largest_singular_value(tensor.reshape(tensor.shape[0], -1), start, tolerance=self.tolerance)
            self._remembered[name] = _Memory(self._checkpoint_id, start, top.vector)
            self._found[name] = top
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@shared_pass(version=1)
def spectral_norms(weights: Weights, checkpoint: Checkpoint, network: str, *, tolerance: float = 1e-4) -> SpectralNorms:
    """The largest singular values, to a relative residual of `tolerance`."""
    run = (checkpoint.store, checkpoint.run, network)
    remembered = _REMEMBERED.pop(run, {})
    _REMEMBERED[run] = remembered  # the newest comes last
    while len(_REMEMBERED) > _RUNS:
        del _REMEMBERED[next(iter(_REMEMBERED))]
    return SpectralNorms(weights, checkpoint.checkpoint_id, remembered, tolerance)


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and 0 not in shape


def largest_singular_value(
    matrix: torch.Tensor, start: Floats | None = None, *, tolerance: float = 1e-4, most: int = 100
) -> Top:
    """σ₁ of a matrix by Golub-Kahan-Lanczos iteration with full reorthogonalisation, from `start` or a fixed vector.

    A power iteration by two products a step, but the best combination of all its vectors is taken, not the last one.
    Products are in the matrix's own float32 (narrower types are widened), everything else in float64.
    """
    tall = matrix.detach().to(torch.float64 if matrix.dtype == torch.float64 else torch.float32)
    tall = tall if tall.shape[0] >= tall.shape[1] else tall.T
    columns = tall.shape[1]
    v = _unit(_fixed(columns) if start is None or start.shape != (columns,) else np.asarray(start, dtype=np.float64))
    right, left = [v], [_product(tall, v)]
    alphas, betas = [float(np.linalg.norm(left[0]))], list[float]()
    if alphas[0] == 0.0 or not math.isfinite(alphas[0]):
        return _degenerate(tall, v, alphas[0])
    left[0] /= alphas[0]
    while True:
        ahead = _orthogonal(_product(tall.T, left[-1]) - alphas[-1] * right[-1], right)
        beta = float(np.linalg.norm(ahead))
        sigma, mixture, last = _best(alphas, betas)
        residual = beta * last / sigma
        if residual <= tolerance or len(alphas) >= min(most, columns) or beta <= 1e-7 * sigma:
            return Top(sigma, _unit(np.stack(right, axis=1) @ mixture), residual, len(alphas))
        right.append(ahead / beta)
        behind = _orthogonal(_product(tall, right[-1]) - beta * left[-1], left)
        betas.append(beta)
        alphas.append(float(np.linalg.norm(behind)))
        left.append(behind / alphas[-1] if alphas[-1] else behind)


def _best(alphas: list[float], betas: list[float]) -> tuple[float, Floats, float]:
    """Of the bidiagonal matrix so far: largest singular value, its right vector, and the last entry of its left one."""
    small = np.diag(alphas) + np.diag(betas, 1)
    left, values, right = np.linalg.svd(small)
    return float(values[0]), right[0], abs(float(left[-1, 0]))


def _product(matrix: torch.Tensor, vector: Floats) -> Floats:
    product = torch.mv(matrix, torch.from_numpy(vector).to(matrix.dtype))
    return np.asarray(product.numpy(), dtype=np.float64)


def _orthogonal(vector: Floats, basis: list[Floats]) -> Floats:
    every = np.stack(basis, axis=1)
    for _ in range(2):  # twice is enough
        vector = vector - every @ (every.T @ vector)
    return vector


def _unit(vector: Floats) -> Floats:
    norm = float(np.linalg.norm(vector))
    return np.asarray(vector / norm) if norm else vector


def _fixed(size: int) -> Floats:
    """The same vector every time, with no structure that a weight matrix could share: a golden-ratio sequence."""
    return np.asarray(np.modf(np.arange(1, size + 1) * 0.6180339887498949)[0] - 0.4375)


def _degenerate(matrix: torch.Tensor, vector: Floats, norm: float) -> Top:
    """A zero matrix has σ = 0; a start in the null space tries again along the heaviest column; NaN stays NaN."""
    if not math.isfinite(norm):
        return Top(math.nan, vector, math.inf, 1)
    heaviest = int(torch.linalg.vecdot(matrix, matrix, dim=0).argmax())
    column = np.zeros(len(vector))
    column[heaviest] = 1.0
    if not np.any(_product(matrix, column)):
        return Top(0.0, vector, 0.0, 1)
    return largest_singular_value(matrix, column)
