"""Values with their standard errors."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Estimate(NamedTuple):
    """A value and its standard error, which is NaN where too little was sampled to tell."""

    value: float
    stderr: float

    @property
    def error(self) -> float | None:
        """The standard error as a reading holds it: None where there is none."""
        return self.stderr if math.isfinite(self.stderr) else None


def mean_of(samples: Sequence[float] | NDArray[np.floating]) -> Estimate:
    """The mean of independent samples, one at least, with s/√n."""
    values = np.asarray(samples, dtype=np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), spread / math.sqrt(len(values)))
