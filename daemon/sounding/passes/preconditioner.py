"""What the stored optimizer adds to curvature: the diagonal that Adam divides by, and weight decay in the loss."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sounding.contract import Unavailable, shared_pass
from sounding.curvature.preconditioned import adam_preconditioner
from sounding.opening import Opened
from sounding.passes.optimizer import Group, Optimizer, optimizer
from sounding.passes.rates import shares_of
from sounding.passes.weights import Weights

_ADAM = ("adam", "adamw", "adam or adamw")


@dataclass(frozen=True)
class StoredOptimizer:
    """The optimizer, or why there is none."""

    found: Optimizer | None
    reason: str = ""

    def required(self) -> Optimizer:
        """The optimizer. Raises Unavailable where there is none."""
        if self.found is None:
            raise Unavailable(self.reason)
        return self.found


@shared_pass(version=optimizer.version)  # where that one changes, so does what rests on this one
def stored_optimizer(opened: Opened, weights: Weights) -> StoredOptimizer:
    """The pass `optimizer` for those who can do without."""
    try:
        return StoredOptimizer(optimizer(opened, weights))
    except Unavailable as error:
        return StoredOptimizer(None, str(error))


def inverse_roots(stored: Optimizer, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Diagonal of P^(-1/2) of each parameter (stored names), in float64 and in its shape.

    Groups with other learning rates than the first one's have P in proportion, so that one rate, the first group's,
    goes with all of it. Raises Unavailable for parameters that Adam does not train or has kept no state of.
    """
    ratios = dict(zip(map(id, stored.groups), shares_of(stored.groups), strict=True))
    found: dict[str, torch.Tensor] = {}
    for name in names:
        group = stored.group_of(name)
        if group is None or group.kind not in _ADAM:
            kind = "no group is known to hold it" if group is None else f"it is trained by {group.kind}"
            raise Unavailable(f"`{name}` has no preconditioner of Adam's: {kind}")
        share = ratios[id(group)]
        diagonal = _diagonal(stored, name, group)
        if not bool((diagonal > 0).all()) or not bool(torch.isfinite(diagonal).all()):
            raise Unavailable(
                f"Adam's second moment of `{name}` is 0, negative or not finite, so nothing can be scaled"
            )
        found[name] = diagonal.rsqrt_().mul_(math.sqrt(1.0 if share is None else share))
    return found


def _diagonal(stored: Optimizer, name: str, group: Group) -> torch.Tensor:
    state: Mapping[str, Any] = stored.state.get(name, {})
    moment = state["max_exp_avg_sq"] if group.settings.get("amsgrad") else stored.second_moment(name)
    step = state.get("step", group.settings.get("step"))
    betas, epsilon = group.betas, group.epsilon
    missing = [
        what
        for what, value in (("second moment", moment), ("step", step), ("eps", epsilon), ("betas", betas or None))
        if value is None
    ]
    if missing or moment is None or epsilon is None:
        raise Unavailable(f"the optimizer's state of `{name}` lacks {' and '.join(missing)}")
    return adam_preconditioner(moment, float(step), (betas[0], betas[1]), epsilon)


def coupled_decay(stored: Optimizer, names: Sequence[str]) -> dict[str, float]:
    """λ of the ½λ|w|² that weight decay through the gradient adds to the loss, by stored name; 0 where decoupled.

    Raises Unavailable where it is not known which of the two it is.
    """
    found: dict[str, float] = {}
    for name in names:
        group = stored.group_of(name)
        if group is None:
            raise Unavailable(f"no group of the optimizer is known to hold `{name}`, so its weight decay is not known")
        if group.weight_decay and group.decoupled is None:
            raise Unavailable(f"it cannot be known whether the weight decay of `{name}` acts through the gradient")
        found[name] = 0.0 if group.decoupled else group.weight_decay
    return found
