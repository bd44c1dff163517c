"""What is known of features by class: counts, means, variances and the scatter within classes."""

from dataclasses import dataclass

import torch

from sounding.geometry.nearest import Share
from sounding.geometry.scatter import Scatter


@dataclass(frozen=True)
class ClassMoments:
    """Moments of N features by class; float64. Classes without examples are not among them."""

    classes: torch.Tensor  # int64 [C], labels, ascending
    counts: torch.Tensor  # [C]
    means: torch.Tensor  # [C, d]
    variances: torch.Tensor  # [C], trace of each class's covariance (divided by n_c)
    within: Scatter  # of all examples, whatever classes were dropped since
    disagreement: Share | None = None  # of given decisions with the nearest class mean

    @property
    def examples(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def finite(self) -> bool:
        """Whether there is no NaN and no infinity in it."""
        return bool(self.means.isfinite().all() & self.variances.isfinite().all())

    @property
    def centred(self) -> torch.Tensor:
        """Class means less their unweighted mean, [C, d]."""
        return self.means - self.means.mean(0)

    @property
    def sample_mean(self) -> torch.Tensor:
        """The mean of all features, [d]."""
        return self.counts @ self.means / self.counts.sum()

    @property
    def within_trace(self) -> float:
        """The trace of Σ_W over these classes."""
        return float(self.counts @ self.variances / self.counts.sum())

    def between_rows(self) -> torch.Tensor:
        """R [C, d] with RᵀR the scatter of the class means about the sample mean, weighted by class."""
        return (self.counts / self.counts.sum()).sqrt()[:, None] * (self.means - self.sample_mean)

    def total(self) -> torch.Tensor:
        """The covariance of all features about their mean, [d, d]."""
        rows = self.between_rows()
        return self.within.matrix().addmm(rows.T, rows)

    def of_at_least(self, count: int) -> "ClassMoments":
        """Without the classes of fewer examples; `within` still is that of all."""
        keep = self.counts >= count
        return ClassMoments(self.classes[keep], self.counts[keep], self.means[keep], self.variances[keep], self.within)
