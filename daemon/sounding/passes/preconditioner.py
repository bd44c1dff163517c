"""What the stored optimizer adds to curvature: the diagonal that it divides by, and weight decay in the loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sounding.contract import Unavailable, shared_pass
from sounding.curvature.preconditioned import adam_preconditioner, rmsprop_preconditioner
from sounding.opening import Opened
from sounding.passes.optimizer import Group, Optimizer, optimizer
from sounding.passes.rates import shares_of
from sounding.passes.recognition import EITHER_ADAM
from sounding.passes.weights import Weights

_INSIDE = "lr_in_momentum"  # a setting of timm's RMSpropTF, which adds epsilon under the root


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
    goes with all of it. Raises Unavailable for parameters that neither Adam nor RMSprop trains or has kept no state of.
    """
    ratios = dict(zip(map(id, stored.groups), shares_of(stored.groups), strict=True))
    found: dict[str, torch.Tensor] = {}
    for name in names:
        group = stored.group_of(name)
        if group is None or group.kind not in _DIAGONALS:
            kind = "no group is known to hold it" if group is None else f"it is trained by {group.kind}"
            raise Unavailable(f"`{name}` has no preconditioner of Adam's or RMSprop's: {kind}")
        share = ratios[id(group)]
        diagonal = _DIAGONALS[group.kind](stored, name, group)
        if not bool((diagonal > 0).all()) or not bool(torch.isfinite(diagonal).all()):
            raise Unavailable(f"what {group.kind} divides `{name}` by is 0 or not finite, so nothing can be scaled")
        found[name] = diagonal.rsqrt_().mul_(math.sqrt(1.0 if share is None else share))
    return found


def preconditioner_in_words(stored: Optimizer, names: Sequence[str]) -> str:
    """What the diagonals of `inverse_roots` are made of."""
    groups = {id(group): group for group in map(stored.group_of, names) if group is not None}
    return " + ".join(dict.fromkeys(_in_words(group) for group in groups.values()))


def _in_words(group: Group) -> str:
    if group.kind != "rmsprop":
        return f"{group.kind}, step and bias corrections included"
    centered = " centered," if group.settings.get("centered") else ""
    return f"{group.kind},{centered} no bias corrected, ε {'under' if _INSIDE in group.settings else 'beside'} the root"


def _of_adam(stored: Optimizer, name: str, group: Group) -> torch.Tensor:
    state: Mapping[str, Any] = stored.state.get(name, {})
    moment = state.get("max_exp_avg_sq") if group.settings.get("amsgrad") else stored.second_moment(name)
    step = state.get("step", group.settings.get("step"))
    moment, step, epsilon, betas = _held(
        name, {"second moment": moment, "step": step, "eps": group.epsilon, "betas": group.betas or None}
    )
    return adam_preconditioner(moment, float(step), (betas[0], betas[1]), epsilon)


def _of_rmsprop(stored: Optimizer, name: str, group: Group) -> torch.Tensor:
    held = {"second moment": stored.second_moment(name), "eps": group.epsilon}
    centered = bool(group.settings.get("centered"))
    if centered:
        held["mean of gradients"] = stored.state.get(name, {}).get("grad_avg")
    moment, epsilon, *mean = _held(name, held)
    return rmsprop_preconditioner(moment, mean[0] if centered else None, epsilon, inside=_INSIDE in group.settings)


def _held(name: str, values: Mapping[str, Any]) -> list[Any]:
    missing = [what for what, value in values.items() if value is None]
    if missing:
        raise Unavailable(f"the optimizer's state of `{name}` lacks {' and '.join(missing)}")
    return list(values.values())


_DIAGONALS: Mapping[str, Callable[[Optimizer, str, Group], torch.Tensor]] = {
    "adam": _of_adam, "adamw": _of_adam, EITHER_ADAM: _of_adam, "rmsprop": _of_rmsprop,
}  # fmt: skip


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
