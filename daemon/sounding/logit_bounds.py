"""How large attention logits and output logits can become, from the weights alone. All in float64.

The input of a normalised layer is x = γ∘u + β with |u| ≤ √d: of RMSNorm |u|² is d·m/(m + ε), m the mean square, of
LayerNorm the same with the variance, so both lie in that ball.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Affine:
    """x = matrix·u + shift over all u of length `radius` at most; `matrix` [k, d], or [k] for a diagonal one."""

    matrix: torch.Tensor
    shift: torch.Tensor  # [k]
    radius: float

    @property
    def longest(self) -> float:
        """A bound of |x|, attained up to the angle between the shift and the longest axis."""
        return self.norm * self.radius + float(self.shift.norm())

    @property
    def norm(self) -> float:
        """Spectral norm of the matrix."""
        if self.matrix.ndim == 1:
            return float(self.matrix.abs().max())
        return math.sqrt(max(float(torch.linalg.eigvalsh(gram(self.matrix))[-1]), 0.0))

    def onto(self, vector: torch.Tensor) -> float:
        """|matrixᵀ·vector|."""
        return float((self.matrix * vector if self.matrix.ndim == 1 else self.matrix.T @ vector).norm())


def gram(matrix: torch.Tensor) -> torch.Tensor:
    """The product WWᵀ in float64."""
    exact = matrix.double()
    return exact @ exact.T


def largest_product(one: torch.Tensor, two: torch.Tensor) -> float:
    """σ₁(AᵀB) of A and B [k, d], from their k×k Gram matrices.

    Its square is the largest eigenvalue of (AAᵀ)^½ (BBᵀ) (AAᵀ)^½.
    """
    values, vectors = torch.linalg.eigh(gram(one))
    half = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return math.sqrt(max(float(torch.linalg.eigvalsh(half @ gram(two) @ half)[-1]), 0.0))


def product_bound(query: Affine, key: Affine) -> float:
    """A bound of |q·k| over all q and k of these forms; attained where the shifts are 0."""
    diagonal = query.matrix.ndim == 1 and key.matrix.ndim == 1
    turned = float((query.matrix * key.matrix).abs().max()) if diagonal else largest_product(query.matrix, key.matrix)
    both = turned * query.radius * key.radius
    ones = query.radius * query.onto(key.shift) + key.radius * key.onto(query.shift)
    return both + ones + abs(float(query.shift @ key.shift))


def rotated_bound(query: Affine, key: Affine) -> float:
    """A bound of |q·Rk| over any rotation R besides, as rotary position embeddings bring one."""
    return query.longest * key.longest


def row_bounds(rows: torch.Tensor, bias: torch.Tensor | None, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """A bound of each |w·x + b| over normalised inputs x = gain∘u + shift, |u| ≤ √d; [rows], attained."""
    exact = rows.double()
    fixed = exact @ shift + (0 if bias is None else bias.double())
    return torch.add(fixed.abs(), (exact * gain).norm(dim=1), alpha=math.sqrt(rows.shape[1]))
