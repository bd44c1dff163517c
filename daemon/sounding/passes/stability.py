"""Which stability border the stored optimizer has: its rule, where all of the network is trained by one."""

from collections.abc import Sequence

from sounding.curvature.thresholds import Rule, Threshold, threshold_of
from sounding.passes.optimizer import Group


def border_of(groups: Sequence[Group], rates: Sequence[float | None]) -> Threshold | str:
    """The border for full batches and the last learning rate, or why there is none.

    A preconditioner takes up different rates (the first group's goes with it); optimizers without one need one rate.
    Of decoupled decays the largest counts.
    """
    rules = [_rule(group, rate) for group, rate in zip(groups, rates, strict=True) if rate is not None]
    if not rules or rates[0] is None:
        return "the learning rate is not known"
    kinds = {(rule.kind, rule.momentum, rule.dampening, rule.nesterov) for rule in rules}
    if len(kinds) > 1:
        return "groups of parameters are trained by different rules"
    if rules[0].rate == 0.0:
        return "the learning rate is 0"
    borders = [threshold_of(_with_rate(rule, rules[0].rate)) for rule in rules]
    found = [border for border in borders if border is not None]
    if not found:
        return f"none is known for {rules[0].kind}"
    if not found[0].preconditioned and len({rule.rate for rule in rules}) > 1:
        return "groups of parameters have different learning rates"
    return min(found, key=lambda border: border.value)


def _rule(group: Group, rate: float) -> Rule:
    return Rule(
        kind=group.kind,
        rate=rate,
        momentum=group.betas[0] if group.betas else group.momentum,
        dampening=group.number("dampening") or 0.0,
        nesterov=bool(group.settings.get("nesterov")),
        weight_decay=group.weight_decay,
        decoupled=group.decoupled is not False,
    )


def _with_rate(rule: Rule, rate: float) -> Rule:
    return Rule(rule.kind, rate, rule.momentum, rule.dampening, rule.nesterov, rule.weight_decay, rule.decoupled)
