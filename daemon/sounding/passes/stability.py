"""Which stability border the stored optimizer has: its rule, where all of the network is trained by one."""

from collections.abc import Sequence
from dataclasses import replace

from sounding.curvature.thresholds import Rule, Threshold, threshold_of
from sounding.passes.optimizer import Group


def border_of(groups: Sequence[Group], rates: Sequence[float | None]) -> Threshold | str:
    """The border for full batches and the last learning rate, or why there is none.

    A preconditioner takes up different rates (the first group's goes with it); optimizers without one need one rate.
    Of decoupled decays, each of which goes with its own group's rate, the largest counts.
    """
    rules = [_rule(group, rate) for group, rate in zip(groups, rates, strict=True) if rate is not None]
    if not rules or len(rules) < len(groups):
        return "the learning rate is not known" + (" of every group of parameters" if rules else "")
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
    """The rule at another group's rate; decoupled decay takes the same share of the weights as before."""
    decay = rule.weight_decay * rule.rate / rate if rule.decoupled else rule.weight_decay
    return replace(rule, rate=rate, weight_decay=decay)
