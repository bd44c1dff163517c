"""What Adam and RMSprop divide a gradient by, from what they keep."""

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


def rmsprop_preconditioner(
    second_moment: torch.Tensor, mean: torch.Tensor | None, epsilon: float, *, inside: bool = False
) -> torch.Tensor:
    """Diagonal P of the update w ← w - lr·b, b ← βb + P⁻¹g, in float64; RMSprop corrects no bias.

    P = √v + ε, or √(v + ε) with ε `inside`; less ḡ² under the root where `mean`, the running mean ḡ of gradients, is
    given (centered). NaN where that leaves less than nothing.
    """
    moment = second_moment.to(torch.float64, copy=True)
    if mean is not None:
        moment.addcmul_(mean.double(), mean.double(), value=-1.0)
    return moment.add_(epsilon).sqrt_() if inside else moment.sqrt_().add_(epsilon)
