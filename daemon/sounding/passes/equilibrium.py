"""Where weight decay and the optimizer's steps balance: norm, rotation and memory of weights that noise drives.

A weight that the network does not feel the scale of gets gradients at right angles to it. Their mean over many updates
is small against their spread, so to second moments they are white noise n, and the weights a linear filter of it:
w_t = -η·Σ_j h_j n_(t-j). Every optimizer below is one with h_j = Σ_i c_i z_i^j, two poles z and gains c, from which

    E w_t·w_(t+k) ∝ Σ_i z_i^k c_i Σ_l c_l / (1 - z_i z_l)

gives the norm (k = 0) and the cosine over k updates. Poles are kept as 1 - z, so that no digit is lost where decay is
1e-9 an update. Lion's sign is no linear filter; there the correlation of signs of Gaussian variables, (2/π)·asin ρ,
drives a filter of one pole. So does that of Muon's orthogonalised matrices (`orthogonalised`).
"""

import cmath
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sounding.passes.optimizer import Group
from sounding.passes.orthogonalised import QUINTIC, STEPS, Orthogonalised, momentum_correlations

Floats = NDArray[np.float64]
_MEMORY = 60  # e-foldings after which an autocorrelation counts as gone


class Equilibrium(Protocol):
    """A balance that weights tend to; what it says holds for updates dominated by gradient noise."""

    @property
    def spread(self) -> float:
        """E‖w‖² per unit of noise: per element for updates of known size, per E‖g‖² for SGD; NaN: size not known."""
        ...

    def cosine_loss(self, updates: int) -> float:
        """1 - the cosine between the weights now and so many updates later."""
        ...


def angle_of(cosine_loss: float) -> float:
    """The angle whose cosine is 1 - `cosine_loss`, in radians, exact for small ones."""
    return 2.0 * math.asin(math.sqrt(min(1.0, max(0.0, cosine_loss / 2.0))))


@dataclass(frozen=True)
class Filter:
    """A balance of a linear filter; `gaps` are 1 - z of its poles, `gains` their c, the first pole the slowest."""

    rate: float
    gaps: tuple[complex, complex]
    gains: tuple[complex, complex]

    @property
    def shares(self) -> tuple[complex, complex]:
        """The parts of E w_t·w_(t+k) at k = 0 that go with each pole, over η²."""
        gaps, gains = self.gaps, self.gains
        return tuple(  # type: ignore[return-value]
            gains[i] * sum(gains[k] / (gaps[i] + gaps[k] - gaps[i] * gaps[k]) for k in (0, 1)) for i in (0, 1)
        )

    @property
    def spread(self) -> float:
        """E‖w‖² for noise of unit variance."""
        return self.rate**2 * sum(self.shares).real

    def cosine_loss(self, updates: int) -> float:
        """1 - the cosine over so many updates."""
        shares = self.shares
        lost = sum(share * _lost(gap, updates) for share, gap in zip(shares, self.gaps, strict=True))
        return (lost / sum(shares)).real


def _lost(gap: complex, updates: int) -> complex:
    """1 - z^k from 1 - z."""
    if abs(gap) >= 0.5 or gap.imag:
        return 1.0 - (1.0 - gap) ** updates
    return -math.expm1(updates * math.log1p(-gap.real))


def sgd(rate: float, decay: float, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False) -> Filter:
    """Torch's SGD with decay λ added to the gradient: buf ← μ·buf + (1-τ)(n + λw), w ← w - η·buf.

    With Nesterov's step w ← w - η(n + λw + μ·buf). The noise is the gradient's, of E‖g‖² in all.
    """
    step = rate * (1.0 - dampening)
    pull, mu = step * decay, momentum
    total = 1.0 - mu + pull * (1.0 + mu if nesterov else 1.0)
    root = cmath.sqrt(total * total - 4.0 * pull)
    slow = 2.0 * pull / (total + root)
    gaps = (slow, total - slow)
    apart = gaps[1] - gaps[0]  # z₁ - z₂
    poles = [1.0 - gap for gap in gaps]
    weights = [(1.0 + mu) * pole - mu if nesterov else pole for pole in poles]
    return Filter(step, gaps, (weights[0] / apart, -weights[1] / apart))


def adamw(rate: float, decay: float, beta: float) -> Filter:
    """AdamW with decoupled decay λ: w ← (1-ηλ)w - η·m, m ← β₁m + (1-β₁)n; g/√v is noise of one per element."""
    gaps = (rate * decay, 1.0 - beta)
    apart = gaps[1] - gaps[0]
    return Filter(rate, gaps, ((1.0 - beta) * (1.0 - gaps[0]) / apart, -(1.0 - beta) * beta / apart))


@dataclass(frozen=True, eq=False)
class Signed:
    """A balance of updates of one size, with `correlations` over lags 1, 2 …: Lion, Muon, any fixed norm."""

    rate: float  # size of one update: of an element, or of a norm
    gap: float  # ηλ
    correlations: Floats

    @property
    def _ahead(self) -> Floats:
        """Σ_j a^j r_(j+k+1) for k = 0, 1 …, where a = 1 - ηλ."""
        powers = np.exp(np.arange(len(self.correlations)) * math.log1p(-self.gap))
        return np.asarray(np.cumsum((self.correlations * powers)[::-1])[::-1] / powers)

    @property
    def _sum(self) -> float:
        """1 + 2Σ a^k r_k."""
        ahead = self._ahead
        return 1.0 + 2.0 * (1.0 - self.gap) * float(ahead[0]) if len(ahead) else 1.0

    @property
    def spread(self) -> float:
        """E‖w‖² for updates of unit size per element (or of unit norm)."""
        return self.rate**2 * self._sum / (self.gap * (2.0 - self.gap))

    def cosine_loss(self, updates: int) -> float:
        """1 - the cosine over so many updates."""
        ahead, summed, lost = self._ahead, self._sum, 0.0
        near = min(updates, len(ahead))
        for k in range(near):
            lost = self.gap + (1.0 - self.gap) * lost - self.gap * (2.0 - self.gap) * float(ahead[k]) / summed
        return 1.0 - (1.0 - lost) * math.exp((updates - near) * math.log1p(-self.gap))


def lion(rate: float, decay: float, betas: tuple[float, float]) -> Signed:
    """Lion with decoupled decay: w ← (1-ηλ)w - η·sign(β₁m + (1-β₁)n), m ← β₂m + (1-β₂)n."""
    one, two = betas
    variance = (1.0 - one) ** 2 + one**2 * (1.0 - two) / (1.0 + two)
    first = one * (1.0 - one) * (1.0 - two) + one**2 * (1.0 - two) * two / (1.0 + two)
    lags = np.arange(_lags(two))
    return Signed(rate, rate * decay, 2.0 / math.pi * np.arcsin(first / variance * two**lags))


def fixed_norm(rate: float, decay: float, correlation: float) -> Signed:
    """Updates of one norm whose correlation falls off as `correlation`^k, with decoupled decay."""
    return Signed(rate, rate * decay, correlation ** np.arange(1.0, _lags(correlation) + 1.0))


def muon(group: Group, rate: float, shape: Sequence[int]) -> Signed | None:
    """Muon with decoupled decay: w ← (1-ηλ)w - η·s·O, O of a matrix of this shape, kernels with a row per output.

    The factor s is told by torch's Muon and by the original's marks; of others it is not known.
    """
    if len(shape) not in (2, 4) or not math.prod(shape):
        return None
    rows, columns, mu, settings = shape[0], math.prod(shape[1:]), group.momentum, group.settings
    steps = group.number("ns_steps") or group.number("backend_steps") or STEPS
    quintic = settings.get("ns_coefficients")
    updates = Orthogonalised(rows, columns, int(steps), quintic if isinstance(quintic, Sequence) else QUINTIC)
    nesterov = bool(settings.get("nesterov", True))
    correlations = updates.correlations(momentum_correlations(mu, nesterov, _lags(mu)))
    size = _factor(settings, rows, columns) * updates.norm / math.sqrt(rows * columns)
    return Signed(rate * size, rate * group.weight_decay, correlations)


def _factor(settings: Mapping[str, object], rows: int, columns: int) -> float:
    if settings.get("adjust_lr_fn") == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    told = "adjust_lr_fn" in settings or "use_muon" in settings
    return math.sqrt(max(1.0, rows / columns)) if told else math.nan


def _lags(factor: float) -> int:
    return 0 if factor <= 0.0 else min(1_000_000, math.ceil(_MEMORY / -math.log(factor)))


def decay_rate(group: Group, rate: float) -> float | None:
    """The share of a weight that decay takes in one update, in the long run; None where it has no such meaning.

    Decoupled decay takes ηλ (Adan's proximal form ηλ/(1+ηλ)). SGD's goes through the momentum and takes
    ηλ(1-τ)/(1-μ), to first order in ηλ. With decay inside an adaptive gradient it depends on the gradient's size.
    """
    pull = rate * group.weight_decay
    if group.kind == "sgd":
        gap = sgd(rate, group.weight_decay, group.momentum, group.number("dampening") or 0.0, _nesterov(group)).gaps[0]
        return gap.real
    if group.kind == "adan" and not group.settings.get("no_prox"):
        return pull / (1.0 + pull)
    if group.weight_decay == 0.0:
        return 0.0
    return pull if group.decoupled else None


def equilibrium_of(group: Group, rate: float, shape: Sequence[int] = ()) -> Equilibrium | None:
    """The balance that a group's settings lead to; None without decay, or where it is not known for its optimizer.

    The shape of the weight matters to Muon alone.
    """
    pull = rate * group.weight_decay
    if not 0.0 < pull < 1.0:
        return None
    if group.kind == "sgd":
        return sgd(rate, group.weight_decay, group.momentum, group.number("dampening") or 0.0, _nesterov(group))
    if not group.decoupled:
        return None
    if group.kind == "adamw" and group.betas:
        return adamw(rate, group.weight_decay, group.betas[0])
    if group.kind == "lion" and len(group.betas) == 2:
        return lion(rate, group.weight_decay, (group.betas[0], group.betas[1]))
    return muon(group, rate, shape) if group.kind == "muon" else None


def _nesterov(group: Group) -> bool:
    return bool(group.settings.get("nesterov"))
