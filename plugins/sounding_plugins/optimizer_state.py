"""What Adam's moments tell of updates, their scales and the gradients' noise; how large all other states are."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sounding import Checkpoint, Finding, Metric, Reading, Skip, plugin
from sounding.numbers import chunks, sum_of_squares
from sounding.passes import Group, Optimizer, Weights, layers_of, rates_of
from sounding.records import Quality

_KINDS = ("adam", "adamw", "adam or adamw")
_SPIKE = 5000.0  # squared gradient over second moment that makes a spike
_ADAM = "Kingma and Ba 2015, algorithm 1: m̂ / (√v̂ + ε)"
_SPREAD = "what Adalayer does away with: Zhao et al. 2025"
_MOMENTS = "derived on the plugin's page, from the moments of gradients that are independent and stationary"
_SPAM = "SPAM, Huang et al. 2025, g² > 5000 v, for the last update: derived on the plugin's page"


@dataclass(frozen=True)
class _Kept:
    """A weight with its moments."""

    name: str
    weight: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    steps: float
    group: Group

    @property
    def corrections(self) -> tuple[float, float]:
        """1 - β^t of both moments."""
        first, second = self.group.betas[:2]
        return 1.0 - first**self.steps, 1.0 - second**self.steps

    @property
    def memory(self) -> float:
        """κ: the share of a gradient's variance that is left in m̂, the sum of squared weights of a running mean."""
        beta = self.group.betas[0]
        left = math.pow(beta, self.steps)
        return (1 - beta) / (1 + beta) * (1 + left) / (1 - left)


@dataclass(frozen=True)
class _Sums:
    """Sums over the elements of a weight; `logs` are those of ln √v̂ where it is not zero."""

    updates: float = 0.0  # û·û
    along: float = 0.0  # û·w
    weights: float = 0.0  # w·w
    first: float = 0.0  # Σ m̂²
    second: float = 0.0  # Σ v̂
    count: int = 0
    faint: int = 0
    spiked: int = 0
    logs: tuple[int, float, float] = (0, 0.0, 0.0)  # how many, sum, sum of squares


@plugin(
    version=3,
    metrics=[
        Metric("update_rms", "1", "root mean square of Adam's normalised update û", _ADAM),
        Metric("update_ratio", "1", "learning rate x norm of û over norm of the weight", _ADAM),
        Metric("update_cosine", "1", "cosine between û and the weight; û is subtracted", _ADAM),
        Metric("second_moment_spread", "1", "standard deviation of ln √v̂ within the tensor", _SPREAD),
        Metric("row_spread", "1", "standard deviation of ln of the rows' root mean v̂", _SPREAD),
        Metric("layer_spread", "1", "standard deviation of ln of the tensors' root mean v̂", _SPREAD),
        Metric("below_epsilon", "fraction", "elements with √v̂ below ε: their update is no longer normalised", _ADAM),
        Metric(
            "spike_share", "fraction", "elements whose last gradient was a spike, as far as the moments show", _SPAM
        ),
        Metric("coherence", "1", "Σm̂² / Σv̂; noise alone gives (1-β₁)/(1+β₁)", _MOMENTS),
        Metric("noise_trace", "gradient²", "trace of the covariance of the gradients that were averaged", _MOMENTS),
        Metric(
            "signal", "gradient²", "squared norm of the mean gradient; unresolved where it is not above 0", _MOMENTS
        ),
        Metric(
            "second_moment_share", "fraction", "share of Σv̂ that the head, or the normalisations, have", "definition"
        ),
        Metric(
            "state_rms",
            "stored",
            "root mean square of a tensor kept by another optimizer; group is its key",
            "definition",
        ),
    ],
)
def optimizer_state(optimizer: Optimizer, weights: Weights, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Statistics of the moments that Adam and AdamW keep, per tensor and in total; of other states, their size."""
    told = rates_of(optimizer.groups, checkpoint.progress)
    rates = dict(zip(map(id, optimizer.groups), told.values, strict=True))
    certain: Quality = "ok" if told.certain else "unresolved"
    kept = list(_kept(optimizer, weights))
    yield from _of_others(optimizer, {each.name for each in kept})
    if not kept:
        yield Skip(f"no weight has Adam's two moments and a count of steps: the optimizer is {optimizer.name}")
        return
    sums: dict[str, _Sums] = {}
    for each in kept:
        found = sums[each.name] = _sums(each)
        if not math.isfinite(found.updates + found.second):
            yield Skip("its moments are not finite", part=each.name)
            del sums[each.name]
            continue
        yield from _of_update(found, each.name, rates[id(each.group)], certain)
        yield from _of_scales(found, each)
        yield from _of_noise([(found, each.memory)], each.name)
    whole = [(sums[each.name], each.memory) for each in kept if each.name in sums]
    yield from _of_noise(whole, "")
    yield from _of_layers(sums, weights)


def _kept(optimizer: Optimizer, weights: Weights) -> Iterator[_Kept]:
    for name, weight in weights.parameters().items():
        group, first, second = optimizer.group_of(name), optimizer.first_moment(name), optimizer.second_moment(name)
        if group is None or group.kind not in _KINDS or len(group.betas) < 2 or first is None or second is None:
            continue
        steps = optimizer.state[name].get("step")
        count = float(steps) if isinstance(steps, int | float | torch.Tensor) else 0.0
        if count >= 1 and first.shape == second.shape == weight.shape and weight.numel():
            yield _Kept(name, weight, first, second, count, group)


def _of_others(optimizer: Optimizer, known: set[str]) -> Iterator[Finding]:
    """How large is what is kept of weights that have no moments of Adam, whoever kept it, by its key."""
    for name, state in optimizer.state.items():
        if name not in known:
            for key in state:
                yield from _of_other(state, key, name)


def _of_other(state: Mapping[str, Any], key: str, part: str) -> Iterator[Finding]:
    """Of one tensor, or of several under one key as if they were one; single numbers are counters and settings."""
    value = state[key]
    tensors = [
        each
        for each in (value if isinstance(value, list) else [value])
        if isinstance(each, torch.Tensor) and each.numel() > 1 and not each.is_complex()
    ]
    if not tensors:
        return
    squares, count = sum(map(sum_of_squares, tensors)), sum(each.numel() for each in tensors)
    if math.isfinite(squares):
        yield Reading("state_rms", math.sqrt(squares / count), part=part, group=key)
    else:
        yield Skip(f"its {key} has values that are NaN or infinite", part=part)


def _sums(of: _Kept) -> _Sums:
    """All of them in one pass, in float64, a chunk at a time."""
    first_correction, second_correction = of.corrections
    epsilon, threshold = of.group.epsilon or 0.0, spike_threshold(*of.group.betas[:2])
    totals = torch.zeros(10, dtype=torch.float64)
    for m, v, w in zip(chunks(of.first), chunks(of.second), chunks(of.weight), strict=True):
        mean, root = m / first_correction, (v / second_correction).sqrt()
        update = torch.where(root + epsilon > 0, mean / (root + epsilon), 0.0)
        logs = root[root > 0].log()
        totals += torch.stack([
            update @ update, update @ w, w @ w, mean @ mean, root @ root, (root < epsilon).sum().double(),
            ((m * m > threshold * v) & (v > 0)).sum().double(),
            torch.tensor(float(logs.numel())).double(), logs.sum(), logs @ logs,
        ])  # fmt: skip
    updates, along, squares, first, second, faint, spiked, number, log, log_squares = totals.tolist()
    logs_of = (int(number), log, log_squares)
    return _Sums(updates, along, squares, first, second, of.weight.numel(), int(faint), int(spiked), logs_of)


def spike_threshold(first: float, second: float) -> float:
    """m²/v of an element just after a gradient with g² = 5000 v met it, whose own past is small beside it."""
    return (1 - first) ** 2 * _SPIKE / (second + (1 - second) * _SPIKE)


def _of_update(found: _Sums, part: str, rate: float | None, certain: Quality) -> Iterator[Finding]:
    yield Reading("update_rms", math.sqrt(found.updates / found.count), part=part)
    if found.weights > 0.0 and rate:
        ratio = rate * math.sqrt(found.updates / found.weights)
        yield Reading("update_ratio", ratio, part=part, quality=certain)
    if found.weights > 0.0 and found.updates > 0.0:
        yield Reading("update_cosine", found.along / math.sqrt(found.updates * found.weights), part=part)


def _of_scales(found: _Sums, of: _Kept) -> Iterator[Finding]:
    yield Reading("below_epsilon", found.faint / found.count, part=of.name)
    yield Reading("spike_share", found.spiked / found.count, part=of.name)
    number, total, squares = found.logs
    if number > 1:
        spread = squares / number - (total / number) ** 2
        yield Reading("second_moment_spread", math.sqrt(max(spread, 0.0)), part=of.name)
    if of.second.ndim >= 2:
        rows = of.second.detach().reshape(of.second.shape[0], -1)
        step = max(1, (1 << 20) // max(1, rows.shape[1]))
        means = torch.cat([rows[at : at + step].double().mean(1) for at in range(0, rows.shape[0], step)])
        if (means > 0).sum() > 1:
            yield Reading("row_spread", float(means[means > 0].log().std(correction=0)) / 2, part=of.name)


def _of_noise(members: list[tuple[_Sums, float]], part: str) -> Iterator[Finding]:
    """With E m̂² = G² + κT and E v̂ = G² + T, both follow from the two sums; κ may differ between weights."""
    first, second = (sum(getattr(found, name) for found, _ in members) for name in ("first", "second"))
    if second == 0.0:
        yield Skip("all second moments are zero", part=part)
        return
    yield Reading("coherence", first / second, part=part)
    if any(memory > 0.99 for _, memory in members):
        yield Skip("after one update, mean and noise of the gradient cannot be told apart", part=part)
        return
    trace = sum((found.second - found.first) / (1 - memory) for found, memory in members)
    signal = second - trace
    yield Reading("noise_trace", trace, part=part, quality="ok" if trace > 0 else "unresolved")
    yield Reading("signal", signal, part=part, quality="ok" if signal > 0 else "unresolved")


def _of_layers(sums: dict[str, _Sums], weights: Weights) -> Iterator[Finding]:
    means = [found.second / found.count for found in sums.values() if found.second > 0.0]
    if len(means) > 1:
        yield Reading("layer_spread", float(torch.tensor(means).double().log().std(correction=0)) / 2)
    total = sum(found.second for found in sums.values())
    if total == 0.0:
        return
    layers = layers_of({name: weights.shape(name) for name in weights.parameters()}, ordered=weights.ordered)
    for kind in ("head", "norm"):
        held = [found.second for name, found in sums.items() if layers[name].kind == kind]
        if held:
            yield Reading("second_moment_share", sum(held) / total, kind=kind, group=kind)
