"""How many of the largest eigenvalues stand apart from the bulk of the spectrum, by the widest gap between them."""

from dataclasses import dataclass

import numpy as np

from sounding.curvature.eigenvalues import Extremes, error_bounds

CLEAR = 2.0  # ratio of neighbours from which on a gap is called clear
_NOTHING = float(np.finfo(np.float32).eps)  # of the largest value: what is nearer to 0 counts as so much


@dataclass(frozen=True, slots=True)
class Outliers:
    """`count` eigenvalues above the widest gap, the last of them at least `gap` times the next one's magnitude.

    `clear` is false where no neighbours differ by a factor of `CLEAR`; `sum` is of the outliers themselves.
    """

    count: int
    gap: float
    sum: float

    @property
    def clear(self) -> bool:
        """Whether the gap is wide enough to speak of outliers."""
        return self.gap >= CLEAR


def outliers_of(found: Extremes, tolerance: float) -> Outliers | None:
    """The widest relative gap among the positive eigenvalues known from the top without a break; None without two.

    More are known than were asked for: every value of the Krylov space with a bound below `tolerance` of itself. The
    first that is not ends the list, with the largest magnitude that it may have: a saddle's first eigenvalue below zero
    is no gap if it is as far from zero as those above.
    """
    values, turn = np.linalg.eigh(found.projected)
    residuals = found.next_norm * np.abs(turn[-1])
    bounds = error_bounds(values, residuals)
    values, residuals, bounds = values[::-1], residuals[::-1], bounds[::-1]
    sure = (values > 0.0) & (bounds <= tolerance * np.abs(values))
    known = int(np.argmin(sure)) if not sure.all() else len(values)
    if known == 0:
        return None
    following = np.abs(values[1 : known + 1])
    if known < len(values):
        following[-1] += residuals[known]
    ratios = values[: len(following)] / np.maximum(following, _NOTHING * values[0])
    if len(ratios) == 0:
        return None
    place = int(ratios.argmax())
    return Outliers(place + 1, float(ratios[place]), float(values[: place + 1].sum()))
