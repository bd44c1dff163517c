"""Where a growing series will be at a level: by a straight line through its logarithm, with an interval."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_FEWEST_FREE = 3.0  # degrees of freedom, from which on the expansion of Student's quantiles is right to a per cent
_EVIDENCE = 10.0  # BIC difference from which on the worse of two models is left out
_EXACT = 1e-9  # residuals of a logarithm below which a fit is as good as exact
_LARGEST = 700.0  # logarithm of a time: what lies beyond may as well be never


@dataclass(frozen=True, slots=True)
class Line:
    """y = mean + slope·(x - centre) by least squares; errors allow for residuals that go together."""

    centre: float
    mean: float
    slope: float
    slope_error: float
    mean_error: float
    squares: float  # sum of squared residuals
    independent: float  # points, counting only as many as do not go together
    quantile: float  # of Student's distribution, for the confidence asked for

    def goes(self, sign: int) -> bool:
        """Whether it rises (1) or falls (-1) with confidence."""
        return sign * self.slope > self.quantile * self.slope_error

    def crossing(self, level: float) -> tuple[float, float, float] | None:
        """Where the line reaches `level`, with bounds (Fieller 1954); None where the slope may be 0.

        These are the x at which the level lies within the line's own confidence band.
        """
        if not (self.goes(1) or self.goes(-1)):
            return None
        ahead = level - self.mean
        a = self.slope**2 - (self.quantile * self.slope_error) ** 2
        b = self.slope * ahead
        c = ahead**2 - (self.quantile * self.mean_error) ** 2
        root = math.sqrt(max(b**2 - a * c, 0.0))
        return self.centre + ahead / self.slope, self.centre + (b - root) / a, self.centre + (b + root) / a


@dataclass(frozen=True, slots=True)
class Growth:
    """How a positive series grows with time, and when it reaches a level.

    `exponent` is that of a power law of time. `at` is where the better model reaches the level and `low` to `high`
    what the models between which the data do not decide allow; `at` is None where one of them need not grow at all.
    """

    exponent: float
    exponent_error: float
    rises: bool  # with confidence, by every model that the data leave
    falls: bool
    at: float | None = None
    low: float | None = None
    high: float | None = None


def growth(times: Floats, values: Floats, level: float, confidence: float = 0.95) -> Growth:
    """Of at least three positive values at ascending positive times, as a power law of time and as an exponential."""
    logs = np.log(values)
    power, exponential = fit_line(np.log(times), logs, confidence), fit_line(times, logs, confidence)
    models = _left([(power, _exp), (exponential, float)])
    rises, falls = (all(line.goes(sign) for line, _ in models) for sign in (1, -1))
    crossings = [(line.crossing(math.log(level)), back) for line, back in models] if rises else []
    bounds = [[back(each) for each in crossing] for crossing, back in crossings if crossing]
    if not bounds:
        return Growth(power.slope, power.slope_error, rises, falls)
    low, high = min(each[1] for each in bounds), max(each[2] for each in bounds)
    return Growth(power.slope, power.slope_error, rises, falls, bounds[0][0], low, high)


def _exp(log: float) -> float:
    return math.exp(min(log, _LARGEST))


def _left(models: list[tuple[Line, Callable[[float], float]]]) -> list[tuple[Line, Callable[[float], float]]]:
    """The better model, and the other one unless the data speak clearly against it."""
    best, other = sorted(models, key=lambda each: each[0].squares)
    if other[0].squares == 0.0:
        return [best, other]
    ratio = best[0].squares / other[0].squares
    return [best] if ratio == 0.0 or -best[0].independent * math.log(ratio) > _EVIDENCE else [best, other]


def fit_line(x: Floats, y: Floats, confidence: float = 0.95) -> Line:
    """The line through at least three points of different x.

    Residuals that follow each other with a correlation r > 0 make n points worth n(1 - r)/(1 + r) of them. What the
    estimate of r loses to the fitted line is given back: 1/n for each of its two parameters, in the mean. With too
    few points left no slope is told from 0.
    """
    count, centre, mean = len(x), float(x.mean()), float(y.mean())
    spread = float(((x - centre) ** 2).sum())
    slope = float((x - centre) @ (y - mean)) / spread
    residuals = y - mean - slope * (x - centre)
    squares = float(residuals @ residuals)
    if squares <= count * _EXACT**2:
        return Line(centre, mean, slope, 0.0, 0.0, 0.0, count, student_quantile(confidence, max(count, 5) - 2))
    together = min(max(float(residuals[1:] @ residuals[:-1]) / squares + 2 / count, 0.0), 0.99)
    independent = count * (1 - together) / (1 + together)
    free = independent - 2
    if free < _FEWEST_FREE:
        return Line(centre, mean, slope, math.inf, math.inf, squares, independent, math.inf)
    # The residuals' variance is squares/(n - 2n/independent), and an estimate's is n/independent times as large as
    # it would be of independent points: the factors cancel.
    errors = [math.sqrt(squares / free / each) for each in (spread, count)]
    return Line(centre, mean, slope, errors[0], errors[1], squares, independent, student_quantile(confidence, free))


def student_quantile(confidence: float, free: float) -> float:
    """The t that Student's distribution keeps within ±t with this probability, for three degrees of freedom or more.

    An expansion around the normal distribution (Abramowitz and Stegun 1964, 26.7.5), right to a per cent.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / free + second / free**2 + third / free**3 + fourth / free**4
