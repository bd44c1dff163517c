"""What Adam divides a gradient by, from what it keeps."""

import math

import torch


def adam_preconditioner(
    second_moment: torch.Tensor, step: float, betas: tuple[float, float], epsilon: float
) -> torch.Tensor:
    """Diagonal P of the update w ← w - lr·P⁻¹m, m the running mean of gradients, in float64.

    P = (1 - β₁ᵗ)·(√(v/(1 - β₂ᵗ)) + ε): both bias corrections are in it, so that P⁻¹H governs stability at the
    nominal learning rate. Source: Cohen et al. 2022, arXiv:2207.14484.
    """
    first, second = (1.0 - math.pow(beta, step) for beta in betas)
    return ((second_moment.double() / second).sqrt_() + epsilon).mul_(first)
