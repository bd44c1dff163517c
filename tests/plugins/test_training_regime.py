"""Regimes of descents on a sphere that are known, jumps that were planted, and what may not be said."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sounding import Reading, Skip
from sounding.passes import Course, Line
from sounding.passes.equilibrium import sgd
from sounding.testing import Trial
from sounding_plugins.training_regime import training_regime

PLUGIN: Any = training_regime
NAME = "0.weight"
RATE, DECAY = 0.1, 0.01


def checkpoint(momentum: float = 0.0, dtype: torch.dtype = torch.float32, **groups: Any) -> dict[str, Any]:
    """A linear layer of 20 × 10 before a BatchNorm, and its optimizer."""
    model: Any = nn.Sequential(nn.Linear(10, 20, bias=False), nn.BatchNorm1d(20)).to(dtype)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=RATE, weight_decay=DECAY, momentum=momentum)
    model(torch.ones(2, 10, dtype=dtype)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **groups}


def past(times: Any, norms: Any, angles: Any, rates: Any = RATE, decays: Any = RATE * DECAY) -> dict[Any, Course]:
    """What other plugins read of a layer of 200 elements; the first checkpoint has no angle."""
    times = np.asarray(times)
    norms = np.broadcast_to(np.asarray(norms, dtype=np.float64), times.shape)

    def course(values: Any, first: int = 0) -> Course:
        values = np.broadcast_to(np.asarray(values, dtype=np.float64), times.shape)
        return Course(times[first:].astype(np.int64), times[first:].astype(np.float64), values[first:])

    return {
        ("weight_norm.frobenius", NAME, ""): course(norms),
        ("weight_norm.rms", NAME, ""): course(norms / math.sqrt(200)),
        ("weight_change.rotation", NAME, ""): course(angles, 1),
        **{_of_group(metric): course(values) for metric, values in (("learning_rate", rates), ("decay_rate", decays))},
    }


def _of_group(metric: str) -> Line:
    return Line(f"effective_learning_rate.{metric}", index=0)


def told(findings: Any, metric: str) -> list[Any]:
    found = [each for each in findings if isinstance(each, Reading) and each.metric == metric]
    return [each.label if each.value is None else each.value for each in found]


def reasons(findings: Any) -> str:
    return " | ".join(each.reason for each in findings if isinstance(each, Skip))


def descent(rate: float, noise: float, every: int = 20, count: int = 80) -> tuple[Any, Any, Any]:
    """Times, angles and losses of f = mean of (aᵢ·u)²/2 over half as many aᵢ as dimensions, on the unit sphere.

    Without noise all losses can become zero, and the noise of sampling them with it.
    """
    random = np.random.default_rng(0)
    data = random.standard_normal((100, 200)) * np.arange(1, 201) ** -0.5
    u = random.standard_normal(200)
    u /= np.linalg.norm(u)
    angles, losses, last = [0.0], [], u
    for step in range(every * count):
        if step % every == 0:
            losses.append(float(((data @ u) ** 2).mean() / 2))
            if step:
                angles.append(float(2 * np.arcsin(min(1.0, np.linalg.norm(u - last) / 2))))
            last = u
        some = data[random.choice(100, 10, replace=False)]
        gradient = some.T @ (some @ u) / 10 + noise * random.standard_normal(200)
        u = u - rate * (gradient - u * (gradient @ u))
        u /= np.linalg.norm(u)
    return every * np.arange(count), angles, losses


@pytest.mark.parametrize(
    ("rate", "noise", "regime"),
    [(0.3, 0.0, "convergence"), (0.3, 0.02, "chaotic equilibrium"), (100.0, 0.0, "divergence")],
)
def test_regimes_of_descents_on_a_sphere(sounding_plugin: Trial, rate: float, noise: float, regime: str):
    times, angles, losses = descent(rate, noise)
    history = past(times, 1.0, angles, rates=rate)
    found = sounding_plugin(PLUGIN, history=history, logs={"loss": (times, losses)}, checkpoints=[checkpoint()])
    assert told(found, "regime") == [regime], (told(found, "rotation_ratio"), told(found, "loss_ratio"))
    turns = 1 - np.cos(angles[1:])
    quarter = len(turns) // 4
    ratio = turns[-quarter:].mean() / turns[:quarter].mean()
    assert told(found, "rotation_ratio") == [pytest.approx(ratio, rel=1e-6)]
    assert told(found, "cosine_early") == [pytest.approx(1 - turns[:quarter].mean())]
    late = [loss for time, loss in zip(times, losses, strict=True) if time >= 0.75 * times[-1]]
    assert told(found, "loss_ratio") == [pytest.approx(np.median(late) / losses[0])]
    assert told(found, "judged_from") == [0.0]


def test_without_a_loss_only_convergence_can_be_told(sounding_plugin: Trial):
    still, calm = past(np.arange(0, 400, 10), 1.0, 0.1), past(np.arange(0, 400, 10), 1.0, np.geomspace(0.1, 0.01, 40))
    found = sounding_plugin(PLUGIN, history=still, checkpoints=[checkpoint()])
    assert told(found, "regime") == ["unresolved"]
    assert "without a loss" in reasons(found)
    assert told(sounding_plugin(PLUGIN, history=calm, checkpoints=[checkpoint()]), "regime") == ["convergence"]


def test_too_few_checkpoints_and_too_uneven_ones(sounding_plugin: Trial):
    for times in (np.arange(0, 80, 10), 2 ** np.arange(1, 16)):
        found = sounding_plugin(PLUGIN, history=past(times, 1.0, 0.1), checkpoints=[checkpoint()])
        assert told(found, "regime") == ["not enough checkpoints"]
        assert {each.quality for each in found if isinstance(each, Reading) and each.metric == "regime"} == {
            "unresolved"
        }


def test_a_regime_is_of_one_effective_learning_rate(sounding_plugin: Trial):
    times = np.arange(0, 600, 10)
    norms = np.where(times < 300, np.linspace(3.0, 1.0, 60), 1.0)
    angles = np.where(times < 300, 0.5, np.geomspace(0.2, 0.02, 60))
    found = sounding_plugin(PLUGIN, history=past(times, norms, angles), checkpoints=[checkpoint()])
    assert told(found, "judged_from") == [300.0]
    assert told(found, "regime") == ["convergence"]
    falling = past(times, np.geomspace(100.0, 1.0, 60), angles)
    found = sounding_plugin(PLUGIN, history=falling, checkpoints=[checkpoint()])
    assert told(found, "regime") == ["not enough checkpoints"]


def test_turns_that_the_stored_type_does_not_resolve(sounding_plugin: Trial):
    history = past(np.arange(0, 400, 10), 1.0, np.geomspace(3e-3, 1e-3, 40))
    stored = checkpoint(dtype=torch.bfloat16)
    found = sounding_plugin(PLUGIN, history=history, checkpoints=[stored])
    assert told(found, "regime") == ["unresolved"]
    assert "stored type" in reasons(found)
    found = sounding_plugin(PLUGIN, history=history, checkpoints=[checkpoint()])
    assert told(found, "regime") == ["convergence"]


def sawtooth(spacing: int, periods: int = 5) -> tuple[Any, Any]:
    """A norm that decays for 1000 updates and grows by e within 40 of them, seen every so many updates."""
    logs = np.tile(np.concatenate([-1e-3 * np.arange(960), np.linspace(-0.96, 0, 40, endpoint=False)]), periods)
    times = np.arange(0, len(logs), spacing)
    return times, np.exp(logs[times])


def test_planted_destabilisations(sounding_plugin: Trial):
    times, norms = sawtooth(20)
    found = sounding_plugin(PLUGIN, history=past(times, norms, 0.1), checkpoints=[checkpoint()])
    assert told(found, "destabilisations") == [5]
    assert told(found, "destabilisation") == [960.0, 1960.0, 2960.0, 3960.0, 4960.0]
    assert told(found, "destabilisation_length") == [40.0] * 4, "the last is not over"
    assert told(found, "periodicity") == ["periodic"]
    assert told(found, "interval") == [1000.0] * 4
    assert told(found, "period") == [1000.0]
    assert told(found, "predicted_interval") == [pytest.approx(960.0)] * 5
    assert told(found, "predicted_period") == [pytest.approx(960.0)]
    peak, trough = told(found, "elr_peak")[1], told(found, "elr_trough")[0]
    assert peak == pytest.approx(RATE * math.exp(1.92))
    assert trough == pytest.approx(RATE)
    assert math.log(peak / trough) / (2 * RATE * DECAY) == pytest.approx(told(found, "predicted_period")[0])


def test_undersampled_jumps_are_unresolved(sounding_plugin: Trial):
    times, norms = sawtooth(300, 12)
    found = sounding_plugin(PLUGIN, history=past(times, norms, 0.1), checkpoints=[checkpoint()])
    assert "undersampled" in reasons(found)
    marked = [each for each in found if isinstance(each, Reading) and each.metric in ("destabilisation", "period")]
    assert marked
    assert {each.quality for each in marked} == {"unresolved"}


def test_irregular_jumps_and_few(sounding_plugin: Trial):
    times, norms = sawtooth(20)
    uneven = times + 3000 * (times >= 2000)
    found = sounding_plugin(PLUGIN, history=past(uneven, norms, 0.1), checkpoints=[checkpoint()])
    assert told(found, "periodicity") == ["aperiodic"]
    found = sounding_plugin(PLUGIN, history=past(times[:140], norms[:140], 0.1), checkpoints=[checkpoint()])
    assert told(found, "periodicity") == ["too few"]
    found = sounding_plugin(PLUGIN, history=past(times[:40], norms[:40], 0.1), checkpoints=[checkpoint()])
    assert told(found, "periodicity") == ["none"]


def test_a_norm_that_wanders_or_follows_the_learning_rate_is_no_destabilisation(sounding_plugin: Trial):
    times, norms = sawtooth(20)
    found = sounding_plugin(PLUGIN, history=past(times, norms, 0.1, decays=0.1), checkpoints=[checkpoint()])
    assert told(found, "destabilisations") == [0], "it declines at a hundredth of the pace of decay"
    raised = past(times, norms, 0.1, rates=np.where(times % 1000 < 500, 3 * RATE, RATE))  # from every top on
    seen = {line: Course(each.steps[:240], each.updates[:240], each.values[:240]) for line, each in raised.items()}
    found = sounding_plugin(PLUGIN, history=seen, checkpoints=[checkpoint()])
    assert told(found, "destabilisations") == [0]
    assert "with the learning rate" in reasons(found)


def test_weights_that_are_not_numbers_are_left_out_and_told(sounding_plugin: Trial):
    times, norms = sawtooth(20)
    norms[200:] = np.nan
    found = sounding_plugin(PLUGIN, history=past(times, norms, 0.1), checkpoints=[checkpoint()])
    assert told(found, "destabilisation") == [960.0, 1960.0, 2960.0, 3960.0]
    assert "at 50 checkpoints the weights are zero, NaN or infinite" in reasons(found)
    found = sounding_plugin(PLUGIN, history=past(times, np.nan, np.nan), checkpoints=[checkpoint()])
    assert told(found, "regime") == ["not enough checkpoints"]
    assert told(found, "destabilisations") == [0]


def at_rest(noise: float, momentum: float = 0.0) -> dict[Any, Course]:
    """Simulated: SGD with weight decay under noise across 200 dimensions, a checkpoint every 20 updates."""
    random = np.random.default_rng(1)
    size, decay = 200, RATE * DECAY / (1 - momentum)
    radius = (RATE * noise**2 * (size - 1) / (2 * DECAY * (1 - momentum))) ** 0.25
    w, buffer, last = random.standard_normal(size), np.zeros(size), None
    w *= radius / np.linalg.norm(w)
    norms: list[float] = []
    angles: list[float] = [0.0]
    for step in range(6000):
        square = w @ w
        if step % 20 == 0:
            norms.append(math.sqrt(square))
            angles += [] if last is None else [float(np.arccos(w @ last / math.sqrt(square * (last @ last))))]
            last = w.copy()
        gradient = noise * random.standard_normal(size) / math.sqrt(square)
        gradient -= w * (gradient @ w) / square
        buffer = momentum * buffer + gradient + DECAY * w
        w = w - RATE * buffer
    times = np.arange(0, 6000, 20)
    expected = math.log1p(-sgd(RATE, DECAY, momentum).cosine_loss(20))
    distances = np.sqrt(np.log(np.cos(angles)) / expected)
    return past(times, norms, angles, decays=decay) | {
        ("rotational_equilibrium.distance", NAME, ""): Course(times[1:], times[1:].astype(np.float64), distances[1:])
    }


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_temperature_of_noise(sounding_plugin: Trial, momentum: float):
    """T = √(ηλσ²/(2(d-1))), σ² = (d-1)·noise² in all, η over 1-μ with momentum; 20 spheres of 10 dimensions here."""
    noise = 0.05
    found = sounding_plugin(PLUGIN, history=at_rest(noise, momentum), checkpoints=[checkpoint(momentum)])
    expected = math.sqrt(RATE / (1 - momentum) * DECAY * noise**2 * 199 / 2) / 180
    assert told(found, "temperature") == [pytest.approx(expected, rel=0.05)], reasons(found)
