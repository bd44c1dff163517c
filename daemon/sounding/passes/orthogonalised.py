"""How large Muon's updates are when noise drives them, and how much each still has of those before it.

Muon's update is O = B·p(BᵀB), B a running mean of gradients, p what the Newton–Schulz iteration makes of singular
values. Driven by white noise, B now and B some updates later are Gaussian matrices whose elements have a correlation
ρ. The mean of O given the other's B is an operator that commutes with rotations from either side and does not raise
the degree of p, so in the limit of large matrices its eigenfunctions are the polynomials orthogonal under x times the
density of Marchenko and Pastur. That product is a semicircle: they are Chebyshev's of the second kind, U_j, with
eigenvalues ρ^(2j+1). Hence

    corr(O, O') = Σ_j a_j ρ^(2j+1),    a_j ∝ (E[p(x)·U_j(ξ)])²,    x = 1 + y + 2√y·ξ,    y = rows/columns ≤ 1,

E over the semicircle ξ on [-1, 1]. For the exact polar factor of a square matrix a_j = (4/π²)(4m/(4m²-1))², m = j+1, of
which a_0 = 0.72; for a vector a_0 = 1. Matrices of 30 × 30 are large enough for 1 %.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton–Schulz iteration as Muon was published
STEPS = 5
_NODES, _TERMS = 1024, 256  # of the quadrature, which is exact for polynomials up to twice that degree; of the series


class Orthogonalised:
    """Updates of matrices of one shape, by so many `steps` of the iteration; none stand for the exact polar factor."""

    def __init__(self, rows: int, columns: int, steps: int = STEPS, quintic: Sequence[float] = QUINTIC) -> None:
        self.rank = min(rows, columns)
        self._squares, self._shares = _series(
            self.rank / max(rows, columns), self.rank, steps, (quintic[0], quintic[1], quintic[2])
        )

    @property
    def norm(self) -> float:
        """Frobenius norm of an update, before any factor that depends on the shape."""
        return math.sqrt(self._squares * self.rank)

    def correlations(self, momentum: Floats) -> Floats:
        """Those of the updates where the momenta that they are made of have these."""
        found = np.zeros_like(momentum)
        for share in self._shares[::-1]:  # Horner's scheme in ρ²
            found = found * momentum**2 + share
        return found * momentum


@lru_cache(maxsize=256)
def _series(aspect: float, rank: int, steps: int, quintic: tuple[float, float, float]) -> tuple[float, Floats]:
    """Mean square of an update's singular values, and the shares a_j of it."""
    angles = np.arange(1, _NODES + 1) * math.pi / (_NODES + 1)
    weights = 2.0 / (_NODES + 1) * np.sin(angles) ** 2  # Gauss–Chebyshev of the second kind
    roots = np.sqrt(1.0 + aspect + 2.0 * math.sqrt(aspect) * np.cos(angles))  # singular values of the momentum
    values = roots / math.sqrt(rank) if steps else np.ones_like(roots)  # Muon divides by the Frobenius norm
    for _ in range(steps):
        values = quintic[0] * values + quintic[1] * values**3 + quintic[2] * values**5
    weighted = weights * values / roots
    orders = np.arange(1, _TERMS + 1)
    parts = np.array([np.sum(weighted * np.sin(order * angles) / np.sin(angles)) for order in orders])
    squares = float(np.sum(weighted * values / roots))
    return squares, parts**2 / squares


def momentum_correlations(momentum: float, nesterov: bool, lags: int) -> Floats:
    """Correlations over 1, 2 … updates of a running mean of white noise, or of Nesterov's step ahead of it.

    The step ahead takes (1-μ)(1+μ) of the newest gradient and (1-μ)μ^(j+1) of the one j before it.
    """
    powers = momentum ** np.arange(1.0, lags + 1.0)
    if not nesterov:
        return powers
    squares = (1.0 + momentum) ** 2 + momentum**4 / (1.0 - momentum**2)
    first = (1.0 + momentum) * momentum + momentum**4 / (1.0 - momentum**2)
    return np.asarray(powers * first / squares)
