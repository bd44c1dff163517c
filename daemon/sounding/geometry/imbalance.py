"""Where deep linear networks with weight decay end under imbalance: the global minimum in closed form."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DeepLinear:
    """The minimum of ‖W_M…W_1 H - Y‖²/(2N) + λ_W/2 Σ‖W_i‖² + λ_H/2 ‖H‖² for one-hot Y and free features H.

    Dang et al. 2023 (arXiv:2301.00437), theorem 3.1 for equal λ_W: every class has a singular value of its own in
    each layer, 0 for classes too small to be worth it.
    """

    layers: int
    decay: float  # λ_W
    feature_decay: float  # λ_H
    counts: tuple[int, ...]

    @property
    def examples(self) -> int:
        """N."""
        return sum(self.counts)

    def singular_values(self) -> tuple[float, ...]:
        """s_k of each layer, by class."""
        unit = (self.examples * self.feature_decay) ** (1 / self.layers)
        return tuple(math.sqrt(self._root(count) * unit) for count in self.counts)

    def mean_norms(self) -> tuple[float, ...]:
        """‖μ_k‖ of the features of every class: s^M/(s^{2M} + Nλ_H)."""
        powers = [each**self.layers for each in self.singular_values()]
        return tuple(each / (each**2 + self.examples * self.feature_decay) for each in powers)

    def answers(self) -> tuple[float, ...]:
        """The output for the right class, W_M…W_1 μ_k: s^{2M}/(s^{2M} + Nλ_H); 1 would be the target."""
        powers = [each ** (2 * self.layers) for each in self.singular_values()]
        return tuple(each / (each + self.examples * self.feature_decay) for each in powers)

    def _root(self, count: int) -> float:
        """The largest root x of M x^{M-1}/(x^M + 1)² = b/n_k, 0 where x = 0 costs less (or there is none)."""
        layers = self.layers
        slope = (
            layers * self.examples * (self.examples * self.decay**layers * self.feature_decay) ** (1 / layers) / count
        )
        if layers == 1:
            return max(0.0, math.sqrt(1 / slope) - 1)
        if slope > dead_above(layers):
            return 0.0
        low = float((layers - 1) ** (1 / layers))  # the root at the threshold; from there on the left side falls
        high = 2.0 * low
        while _slope(high, layers) > slope:
            high *= 2
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if _slope(middle, layers) > slope else (low, middle)
        return (low + high) / 2


def dead_above(layers: int) -> float:
    """The b/n_k above which a class is given up: (M-1)^{(M-1)/M}/M, and 1 for M = 1."""
    return 1.0 if layers == 1 else float((layers - 1) ** ((layers - 1) / layers) / layers)


def _slope(x: float, layers: int) -> float:
    power: float = x ** (layers - 1)
    return layers * power / (power * x + 1) ** 2
