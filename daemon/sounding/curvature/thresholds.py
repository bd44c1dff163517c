"""Where full-batch training becomes unstable: the curvature at which an optimizer's steps in a quadratic start to grow.

In a quadratic with curvature h along an eigenvector, a step with momentum β, rate η and decay factor ρ (1 but for
decoupled weight decay, 1 - ηλ) makes x into a root z of a quadratic polynomial; it grows once z = -1 is passed:

    x' = ρx - ηm, m' = βm + c·hx      z² - (ρ + β - ηch)z + ρβ             h = (1 + ρ)(1 + β)/(ηc)
    Nesterov: x' = x - η(hx + βm')    z² - (1 + β - η(1 + β)h)z + β - ηβh  h = 2(1 + β)/(η(1 + 2β))

c is 1 for momentum as such, 1 - dampening for SGD's, 1 - β₁ for Adam's. Preconditioned methods feel the curvature of
the Hessian between the roots of their preconditioner (Cohen et al. 2022), taken as standing still.
"""

from dataclasses import dataclass

_ADAMS = ("adam", "adamw", "adam or adamw")


@dataclass(frozen=True, slots=True)
class Rule:
    """How an optimizer treats one group of parameters."""

    kind: str  # as `Group.kind`
    rate: float
    momentum: float = 0.0  # β, or Adam's β₁
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False


@dataclass(frozen=True, slots=True)
class Threshold:
    """`value` is what λ_max(H + `shift`·I) must not pass; of the preconditioned Hessian if `preconditioned`."""

    value: float
    formula: str
    preconditioned: bool = False
    shift: float = 0.0


def threshold_of(rule: Rule) -> Threshold | None:
    """The largest stable curvature under full batches; None for optimizers whose steps do not follow the gradient.

    A rate of zero has no threshold: None as well.
    """
    if rule.rate <= 0.0:
        return None
    rate, beta = rule.rate, rule.momentum
    shift = 0.0 if rule.decoupled else rule.weight_decay
    factor = 2.0 - rate * rule.weight_decay if rule.decoupled else 2.0
    if rule.kind == "sgd" and rule.nesterov and beta:
        return Threshold(2 * (1 + beta) / (rate * (1 + 2 * beta)), "(2+2β)/(η(1+2β))", shift=shift)
    if rule.kind == "sgd":
        rate *= 1.0 - rule.dampening if beta else 1.0  # torch damps nothing without momentum
        return Threshold(factor * (1 + beta) / rate, "(2+2β)/η" if beta else "2/η", shift=shift)
    if rule.kind in _ADAMS:
        return Threshold(factor * (1 + beta) / ((1 - beta) * rate), "(2+2β₁)/((1-β₁)η)", True, shift)
    if rule.kind == "rmsprop":
        return Threshold(factor * (1 + beta) / rate, "(2+2β)/η", True, shift)
    return None
