"""Planted breaks are found where they are, and curves without one have none."""

from typing import Any

import numpy as np
import pytest

from sounding import Curve, Reading, Skip
from sounding.fitting import fit_separable
from sounding.passes import Course
from sounding.testing import Trial
from sounding_plugins import loss_deceleration as module
from sounding_plugins.loss_deceleration import loss_deceleration

UPDATES = np.arange(1.0, 30_001.0)
NOISE = np.random.default_rng(7).standard_normal(len(UPDATES))


def broken(t: Any, b: float = 20.0, c0: float = 0.4, t_d: float = 2000.0, r_d: float = 0.08, f1: float = 0.3) -> Any:
    """The model as the paper writes it."""
    c1 = r_d - c0
    return np.exp(np.log(b) - c0 * np.log(t) - c1 * f1 * np.log1p(np.exp((np.log(t) - np.log(t_d)) / f1)))


def told(findings: Any) -> dict[str, Any]:
    found = {each.metric: each for each in findings if isinstance(each, Reading)}
    assert not any(isinstance(each, Curve) for each in findings)
    return found


def reasons(findings: Any) -> str:
    return "; ".join(each.reason for each in findings if isinstance(each, Skip))


@pytest.mark.parametrize(
    ("t_d", "r_d", "f1"), [(2000.0, 0.08, 0.3), (800.0, 0.15, 0.1), (5000.0, 0.05, 0.6), (2000.0, 0.2, 0.05)]
)
def test_planted_parameters_are_recovered(sounding_plugin: Trial, t_d: float, r_d: float, f1: float):
    loss = broken(UPDATES, t_d=t_d, r_d=r_d, f1=f1)
    found = told(sounding_plugin(loss_deceleration, logs={"loss": (UPDATES, loss)}, target=100_000))
    assert found["verdict"].label == "break"
    assert found["t_d"].value == pytest.approx(t_d, rel=5e-3)
    assert found["l_d"].value == pytest.approx(20 * t_d**-0.4, rel=2e-3)
    assert found["r_d"].value == pytest.approx(r_d, abs=5e-4)
    assert found["early_rate"].value == pytest.approx(0.4, abs=2e-3)
    assert found["width"].value == pytest.approx(f1, abs=0.02)
    assert found["predicted_loss"].index == 100_000
    assert found["predicted_loss"].value == pytest.approx(20 * t_d**-0.4 * (100_000 / t_d) ** -r_d, rel=3e-3)
    assert found["horizon"].value == 30_000
    assert found["points"].value == 90 + 90 + 21 - 1  # beyond 100: each tenth, each hundredth, each thousandth


def test_with_noise_within_the_errors_told(sounding_plugin: Trial):
    loss = broken(UPDATES) * np.exp(0.05 * NOISE)
    found = told(sounding_plugin(loss_deceleration, logs={"train_loss": (UPDATES, loss)}))
    assert found["verdict"].label == "break"
    for name, planted, most in (("t_d", 2000.0, 100.0), ("r_d", 0.08, 0.01), ("early_rate", 0.4, 0.02)):
        assert 0 < found[name].stderr < most
        assert abs(found[name].value - planted) < 3 * found[name].stderr
    assert found["predicted_loss"].index == 60_000
    expected = 20 * 2000**-0.4 * 30**-0.08
    assert abs(found["predicted_loss"].value - expected) < 3 * found["predicted_loss"].stderr


def test_as_in_the_paper_means_stand_at_the_end_of_their_window(sounding_plugin: Trial):
    logs = {"loss": (UPDATES, broken(UPDATES))}
    found = told(sounding_plugin(loss_deceleration, logs=logs, centred=False))
    assert found["t_d"].value / 2000 == pytest.approx(1.2**0.5, abs=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("shape", ["power law", "saturating"])
def test_curves_without_a_break_have_none(sounding_plugin: Trial, shape: str, noise: float):
    loss = 20 * UPDATES**-0.3 if shape == "power law" else 2 + 20 * UPDATES**-0.5
    found = told(sounding_plugin(loss_deceleration, logs={"loss": (UPDATES, loss * np.exp(noise * NOISE))}))
    assert found["verdict"].label == "no break"
    assert set(found) == {"verdict", "early_rate", "bic_power_law", "bic_saturating", "horizon", "points"}
    if shape == "power law":
        assert found["early_rate"].value == pytest.approx(0.3, abs=0.005)
    else:
        assert found["bic_saturating"].value < 0 < found["bic_power_law"].value


def test_noise_with_memory_makes_no_break_either(sounding_plugin: Trial):
    memory = np.zeros(10_000)
    for row in range(1, len(memory)):
        memory[row] = 0.99 * memory[row - 1] + 0.007 * NOISE[row]  # a twentieth in all
    updates = UPDATES[:10_000]
    loss = (2 + 20 * updates**-0.5) * np.exp(memory)
    assert told(sounding_plugin(loss_deceleration, logs={"loss": (updates, loss)}))["verdict"].label == "no break"


def test_a_loss_that_falls_faster_later_does_not_decelerate(sounding_plugin: Trial):
    loss = broken(UPDATES, c0=0.1, r_d=0.5)
    found = told(sounding_plugin(loss_deceleration, logs={"loss": (UPDATES, loss)}))
    assert found["verdict"].label == "no break"


def test_two_decimals_are_enough(sounding_plugin: Trial):
    loss = np.round(broken(UPDATES, b=60.0) * np.exp(0.02 * NOISE), 2)
    found = told(sounding_plugin(loss_deceleration, logs={"loss": (UPDATES, loss)}))
    assert found["verdict"].label == "break"
    assert found["t_d"].value == pytest.approx(2000, rel=0.03)


@pytest.mark.parametrize("told_by", ["log", "attributes", "nothing"])
def test_a_warm_up_does_not_fake_a_break(sounding_plugin: Trial, told_by: str):
    rate = np.minimum(UPDATES / 3000, 1.0) * 1e-3
    loss = 20 * 3000**-0.3 * (UPDATES / 3000) ** -np.where(UPDATES < 3000, 0.8, 0.3)
    logs = {"loss": (UPDATES, loss), **({"lr": (UPDATES, rate)} if told_by == "log" else {})}
    attributes: Any = {"warmup_steps": 3000} if told_by == "attributes" else {}
    found = told(sounding_plugin(loss_deceleration, logs=logs, attributes=attributes))
    assert found["verdict"].label == ("break" if told_by == "nothing" else "no break")


def test_a_rate_that_still_rises_leaves_nothing_to_fit(sounding_plugin: Trial):
    logs = {"loss": (UPDATES, 20 * UPDATES**-0.3), "lr": (UPDATES, UPDATES)}
    findings = sounding_plugin(loss_deceleration, logs=logs)
    assert told(findings)["verdict"].label == "unresolved"
    assert "after update 35964" in reasons(findings)


def test_a_break_at_the_edge_is_not_told(sounding_plugin: Trial):
    updates = UPDATES[:2300]
    loss = broken(updates, t_d=2000, r_d=-0.2, f1=0.02)
    findings = sounding_plugin(loss_deceleration, logs={"loss": (updates, loss)})
    found = told(findings)
    assert found["verdict"].label == "unresolved"
    assert (found["t_d"].quality, found["r_d"].quality) == ("unresolved", "unresolved")
    assert "at the edge" in reasons(findings)


def test_what_cannot_be_fitted_says_so(sounding_plugin: Trial):
    def answer(updates: Any, loss: Any) -> tuple[str, str]:
        findings = sounding_plugin(loss_deceleration, logs={"loss": (updates, loss)})
        return told(findings)["verdict"].label, reasons(findings)

    short = UPDATES[:400]
    assert answer(short, 20 * short**-0.3) == (
        "unresolved",
        "too sparse or too short: 30 points after update 100, over a factor of 3.64 in time; "
        "needs 20 over a factor of 5",
    )
    assert answer([1.0, 2.0], [3.0, -3.0])[1] == "some losses are not positive, and have no logarithm"
    assert answer([5.0], [np.nan])[0] == "unresolved"
    assert "no training log" in reasons(sounding_plugin(loss_deceleration))


def test_without_a_log_the_checkpoints_readings_are_tried(sounding_plugin: Trial):
    steps = np.unique(np.geomspace(50, 30_000, 80).astype(int))
    loss = broken(steps * 1.0)
    history = {("loss.loss", "", "train"): Course(steps // 10, steps * 1.0, loss)}
    found = told(sounding_plugin(loss_deceleration, history=history))
    assert found["t_d"].value == pytest.approx(2000, rel=1e-3)
    few = {("loss.loss", "", "train"): (steps[::10], loss[::10])}
    assert "too sparse" in reasons(sounding_plugin(loss_deceleration, history=few))


def test_uneven_logs_are_thinned_to_the_first_row_after_each_multiple():
    updates = np.array([1.0, 3, 9, 10, 11, 12, 104, 109, 110, 121, 999, 1040, 1099, 1100, 25_300, 25_900, 26_001])
    kept = updates[module._thinned(updates)]
    assert list(kept) == [1, 3, 9, 10, 11, 12, 104, 110, 121, 999, 1040, 1100, 25_300, 26_001]


def test_windowed_means_against_the_plain_ones():
    updates = np.cumsum(np.random.default_rng(0).integers(1, 5, 500)).astype(float)
    values = NOISE[:500]
    plain = [values[(updates >= t // 1.2) & (updates <= t)].mean() for t in updates]
    assert module._trailing_means(updates, values) == pytest.approx(plain, rel=1e-9, abs=1e-12)


def test_the_answer_does_not_depend_on_the_guess():
    """The grid's fit is as good as the best of many guesses, some with the segments far from where they belong."""
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(1)
    x = np.log(np.geomspace(100, 30_000, 150))
    y = np.log(broken(np.exp(x))) + 0.01 * random.standard_normal(len(x))
    fit = module._broken(module._Points(x, y, 150.0, 30_000.0))

    def residuals(place: Any) -> Any:
        level, slope, bend, knot, log_f = place
        return level + slope * x + bend * np.exp(log_f) * np.logaddexp(0, (x - knot) / np.exp(log_f)) - y

    low, high = [-50, -5, -5, x[0], np.log(0.02)], [50, 5, 5, x[-1], np.log(3.0)]
    squares = []
    for _ in range(30):
        guess = [random.uniform(-2, 6), random.uniform(-1, 0.5), random.uniform(-1, 1), random.uniform(x[0], x[-1]),
                 random.uniform(-3, 1)]  # fmt: skip
        squares.append(2 * optimize.least_squares(residuals, guess, bounds=(low, high)).cost)
    assert fit.squares <= min(squares) * (1 + 1e-6)
    assert fit.converged


def test_slopes_are_the_derivatives(monkeypatch: pytest.MonkeyPatch):
    """Of both models, against central differences at an arbitrary place."""
    x = np.linspace(4.0, 10.0, 40)
    points = module._Points(x, np.log(5 * np.exp(-0.3 * x) + 0.1), 40.0, 1.0)
    captured: list[Any] = []
    monkeypatch.setattr(
        module, "fit_separable", lambda model, *rest: captured.append(model) or fit_separable(model, *rest)
    )
    module._broken(points)
    module._saturating(points)
    for model, place in zip(captured, (np.array([6.5, -1.2]), np.array([0.4, -1.0])), strict=True):
        shape = model(place)
        coefficients = np.linspace(0.5, 1.5, shape.basis.shape[1])
        for axis in range(2):
            step = np.eye(2)[axis] * 1e-6
            up, down = (model(place + sign * step) for sign in (1, -1))
            change = (up.offset + up.basis @ coefficients) - (down.offset + down.basis @ coefficients)
            assert shape.slopes(coefficients)[:, axis] == pytest.approx(change / 2e-6, rel=1e-5, abs=1e-8)
