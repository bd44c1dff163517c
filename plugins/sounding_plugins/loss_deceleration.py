"""When the training loss stops falling at its early rate: a power law of time with one smooth break."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sounding import Finding, Metric, Reading, Run, Skip, plugin
from sounding.fitting import Fit, Shape, fit_separable
from sounding.passes import History, Logs, Series

Floats: TypeAlias = NDArray[np.float64]

_PAPER = "Mircea et al. 2025, Training dynamics underlying language model scaling laws"
_BIC = "Schwarz 1978, Ann. Stat. 6, 461"
_KNOTS = 60
_EXACT = 1e-9  # a width that makes a hinge of the break
_WIDTHS = (0.1, 0.3, 0.8)  # starting values of f₁
_NARROWEST, _WIDEST = 0.02, 3.0  # bounds of f₁, in units of log t
_WINDOW = 1.2  # the mean at t is over [t / 1.2, t]
_FEWEST, _REACH = 20, 5.0  # points, and how many times as far the last of them lies as the first
_BESIDE, _FACTOR = 5, 1.2  # a break is that many points, and at least this factor of time, away from either end
_FINEST = 1e-4  # of the loss: what fits better than that is no evidence, the smoothing itself is not better
_WARMUPS = ("warmup_steps", "num_warmup_steps", "warmup_iters", "warmup_updates", "warmup")


@dataclass(frozen=True)
class _Points:
    """What is fitted: x = log t, y = log L, thinned out; `independent` is how many of them do not share data."""

    x: Floats
    y: Floats
    independent: float
    horizon: float  # the last update

    def bic(self, squares: float, parameters: int) -> float:
        """Bayesian information criterion of a fit, counting only as many points as do not share data."""
        variance = max(squares / len(self.x), _FINEST**2)
        return float(self.independent * np.log(variance) + parameters * np.log(self.independent))


def _metric(name: str, unit: str, meaning: str, source: str = _PAPER) -> Metric:
    return Metric(name, unit, meaning, source)


@plugin(
    version=1,
    over="run",
    metrics=[
        Metric("verdict", "label", "break, no break, or unresolved: what describes the loss best", _PAPER, "label"),
        _metric("t_d", "update", "update at which the loss decelerates, d₁"),
        _metric("l_d", "loss", "loss at the deceleration, b·d₁^(−c₀)"),
        _metric("r_d", "1", "rate after it, c₀ + c₁: the loss falls as t^(−r_d)"),
        _metric("early_rate", "1", "rate before it, c₀; without a break, that of the one power law"),
        _metric("width", "1", "smoothness of the break in log t, f₁"),
        _metric("predicted_loss", "loss", "L_d·(T/t_d)^(−r_d), the loss expected at update `index`"),
        _metric("bic_power_law", "1", "BIC of one power law less that of the broken one: above 0 for a break", _BIC),
        _metric("bic_saturating", "1", "BIC of L₀ + A·t^(−α) less that of the broken one: above 0 for a break", _BIC),
        _metric("horizon", "update", "last update that entered the fit", "definition"),
        _metric("points", "count", "smoothed and thinned points that entered the fit"),
    ],
)
def loss_deceleration(
    logs: Logs,
    history: History,
    run: Run,
    *,
    loss_keys: tuple[str, ...] = ("loss", "train_loss", "train/loss", "training_loss", "loss/train"),
    lr_keys: tuple[str, ...] = ("learning_rate", "lr", "train/learning_rate", "train/lr"),
    start: float = 100.0,
    evidence: float = 10.0,
    target: int = 0,
    centred: bool = True,
) -> Iterator[Finding]:
    """The update at which the loss decelerates, its rates before and after, and the loss they predict.

    Points up to `start`, or within the warm-up of the learning rate, are left out. A break is told when the BIC
    favours it by `evidence` over one power law and over L₀ + A·t^(−α). `target` is the update to predict (0: twice
    the horizon). A mean stands at its window's middle where `centred`, else at its end, as in the paper.
    """
    logged = logs.first(loss_keys)
    series = _of_readings(history) if logged is None else logged[1]
    if series is None:
        yield Skip("no training log with a loss, and no readings of it (`logs`, `loss_keys`)")
        return
    points = _prepared(
        series, max(start, _WINDOW * _warmup(logs.first(lr_keys), run)), centred if logged is not None else None
    )
    if isinstance(points, str):
        yield Skip(points)
        yield Reading("verdict", label="unresolved", quality="unresolved")
        return
    yield Reading("horizon", points.horizon)
    yield Reading("points", len(points.x))
    yield from _described(points, evidence, target or int(2 * points.horizon))


def _described(points: _Points, evidence: float, target: int) -> Iterator[Finding]:
    line = np.polyfit(points.x, points.y, 1)
    power = points.bic(float(((points.y - np.polyval(line, points.x)) ** 2).sum()), 2)
    saturating = points.bic(_saturating(points).squares, 3)
    fit = _broken(points)
    broken = points.bic(fit.squares, 5)
    yield Reading("bic_power_law", power - broken)
    yield Reading("bic_saturating", saturating - broken)
    favoured = min(power, saturating) - broken >= evidence and fit.coefficients[2] > 0
    if not favoured:
        yield Reading("verdict", label="no break")
        yield Reading("early_rate", -float(line[0]))
        return
    problem = _at_the_edge(points, float(fit.nonlinear[0]))
    quality: Any = "unresolved" if problem else "ok" if fit.converged else "unconverged"
    if problem:
        yield Skip(problem, "t_d")
    yield Reading("verdict", label="unresolved" if problem else "break", quality=quality)
    yield from (replace(each, quality=quality) for each in _parameters(points, fit, target))


def _parameters(points: _Points, fit: Fit, target: int) -> Iterator[Reading]:
    """What the paper reads off the fit, with first-order standard errors."""
    knot, width = float(fit.nonlinear[0]), float(np.exp(fit.nonlinear[1]))
    level, slope, bend = (float(each) for each in fit.coefficients)  # y = level + slope·x + bend·h(x)
    jacobian = np.column_stack([_basis(points.x, knot, width), _bends(points.x, knot, width) * bend])
    covariance = np.linalg.pinv(jacobian.T @ jacobian) * fit.squares / max(points.independent - 5.0, 1.0)

    def error(*gradient: float) -> float:
        vector = np.array(gradient)
        return float(np.sqrt(max(vector @ covariance @ vector, 0.0)))

    t_d, rate = float(np.exp(knot)), -(slope + bend)
    l_d, ahead = float(np.exp(level + slope * knot)), float(np.log(target)) - knot
    predicted = float(l_d * np.exp(-rate * ahead))
    yield Reading("t_d", t_d, stderr=t_d * error(0, 0, 0, 1, 0))
    yield Reading("l_d", l_d, stderr=l_d * error(1, knot, 0, slope, 0))
    yield Reading("r_d", rate, stderr=error(0, 1, 1, 0, 0))
    yield Reading("early_rate", -slope, stderr=error(0, 1, 0, 0, 0))
    yield Reading("width", width, stderr=width * error(0, 0, 0, 0, 1))
    yield Reading("predicted_loss", predicted, index=target, stderr=predicted * error(1, knot + ahead, ahead, -bend, 0))


def _at_the_edge(points: _Points, knot: float) -> str:
    before, after = int((points.x < knot).sum()), int((points.x > knot).sum())
    near = min(knot - points.x[0], points.x[-1] - knot) < np.log(_FACTOR)
    if not near and min(before, after) >= _BESIDE:
        return ""
    return f"the break lies at the edge of what was fitted, with {before} points before and {after} after it"


def _broken(points: _Points) -> Fit:
    """The smoothly broken power law: an exact hinge on a grid of knots, then every width, by least squares."""
    inner = np.linspace(points.x[0], points.x[-1], _KNOTS + 2)[1:-1]
    exact = [np.linalg.lstsq(_basis(points.x, knot, _EXACT), points.y, rcond=None)[1].sum() for knot in inner]
    best = inner[np.argsort(exact)[:3]]
    starts = [np.array([knot, np.log(width)]) for knot in best for width in _WIDTHS]
    low = np.array([points.x[0], np.log(_NARROWEST)])
    high = np.array([points.x[-1], np.log(_WIDEST)])

    def model(place: Floats) -> Shape:
        knot, width = float(place[0]), float(np.exp(place[1]))
        return Shape(_basis(points.x, knot, width), lambda found: _bends(points.x, knot, width) * found[2])

    return fit_separable(model, points.y, starts, low, high)


def _basis(x: Floats, knot: float, width: float) -> Floats:
    """Columns 1, x and the smooth hinge f₁·log(1 + exp((x − log d₁) / f₁))."""
    return np.column_stack([np.ones_like(x), x, width * np.logaddexp(0.0, (x - knot) / width)])


def _bends(x: Floats, knot: float, width: float) -> Floats:
    """Derivatives of the smooth hinge by log d₁ and by log f₁."""
    u = (x - knot) / width
    rising = np.exp(-np.logaddexp(0.0, -u))
    return np.column_stack([-rising, width * (np.logaddexp(0.0, u) - u * rising)])


def _saturating(points: _Points) -> Fit:
    """log(L₀ + A·t^(−α)) = log A′ + log(c + e^(−α(x − x̄))): nonlinear in log c and log α."""
    x = points.x - points.x.mean()

    def model(place: Floats) -> Shape:
        log_c, alpha = float(place[0]), float(np.exp(place[1]))
        share = np.exp(-np.logaddexp(0.0, -(log_c + alpha * x)))  # of L₀ in the loss
        slopes = np.column_stack([share, -alpha * x * (1 - share)])
        return Shape(np.ones((len(x), 1)), lambda found: slopes, np.logaddexp(log_c, -alpha * x))

    starts = [np.array([log_c, np.log(alpha)]) for log_c in (-4.0, -1.0, 1.0, 3.0) for alpha in (0.1, 0.5, 1.5)]
    return fit_separable(model, points.y, starts, np.array([-12.0, np.log(1e-3)]), np.array([12.0, np.log(10.0)]))


def _prepared(series: Series, start: float, centred: bool | None) -> _Points | str:
    """Smoothed in a window of constant width in log t, and thinned as in the paper; or why there is nothing to fit.

    `centred` is None where nothing is to be smoothed.
    """
    kept = np.isfinite(series.values) & (series.updates > 0)
    updates, values = series.updates[kept], series.values[kept]
    if len(values) and values.min() <= 0:
        return "some losses are not positive, and have no logarithm"
    means, places = values, np.log(updates)
    if centred is not None:
        means = _trailing_means(updates, values)
        places = _trailing_means(updates, places) if centred else places
    chosen = _thinned(updates)
    chosen = chosen[updates[chosen] > start]
    reach = float(updates[chosen[-1]] / updates[chosen[0]]) if len(chosen) else 0.0
    if len(chosen) < _FEWEST or reach < _REACH:
        return (
            f"too sparse or too short: {len(chosen)} points after update {start:g}, over a factor of {reach:.3g} in "
            f"time; needs {_FEWEST} over a factor of {_REACH:g}"
        )
    windows = np.inf if centred is None else float(np.log(reach) / np.log(_WINDOW))
    independent = min(len(chosen), max(windows, 6.0))
    return _Points(places[chosen], np.log(means[chosen]), independent, float(updates[-1]))


def _trailing_means(updates: Floats, values: Floats) -> Floats:
    """The mean of the values at ⌊t / 1.2⌋ … t, for every t."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    begins = np.searchsorted(updates, np.floor(updates / _WINDOW))
    means: Floats = (sums[1:] - sums[begins]) / (np.arange(1, len(values) + 1) - begins)
    return means


def _thinned(updates: Floats) -> NDArray[np.int64]:
    """Rows to keep: the first at or after every multiple of 10^min(⌊log₁₀ t⌋ − 1, 3), and the last."""
    if not len(updates):
        return np.zeros(0, dtype=np.int64)
    grid = 10 ** np.clip(np.floor(np.log10(np.maximum(updates, 1.0))) - 1, 0, 3)
    cells = np.floor(updates / grid)
    fresh = np.concatenate([[True], (cells[1:] != cells[:-1]) | (grid[1:] != grid[:-1])])
    return np.unique(np.append(np.flatnonzero(fresh), len(updates) - 1))


def _warmup(logged: tuple[str, Series] | None, run: Run) -> float:
    """The update at which the learning rate first reached its greatest value, or what the run's attributes say."""
    if logged is not None and len(rates := logged[1].values) and np.isfinite(rates).all():
        return float(logged[1].updates[np.argmax(rates >= 0.999 * rates.max())])
    known = [run.attributes[name] for name in _WARMUPS if name in run.attributes]
    return max((float(each) for each in known if isinstance(each, int | float)), default=0.0)


def _of_readings(history: History) -> Series | None:
    """The training loss at the checkpoints, which is usually too sparse."""
    course = history.course("loss.loss", split="train")
    if course is None:
        return None
    return Series(course.steps.astype(np.float64) if np.isnan(course.updates).any() else course.updates, course.values)
