"""Balances of optimizer and weight decay: against the usual closed forms, and against the optimizers at work."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sounding.passes.equilibrium import (
    adamw,
    angle_of,
    decay_rate,
    equilibrium_of,
    fixed_norm,
    lion,
    sgd,
)
from sounding.passes.optimizer import Group

SGD = {"lr": 0.1, "weight_decay": 1e-4, "momentum": 0.9, "dampening": 0.0, "nesterov": False}


@pytest.mark.parametrize("mu", [0.0, 0.9, 0.99])
def test_sgd_against_the_closed_forms_for_weak_decay(mu: float):
    rate, decay = 0.01, 1e-6
    found = sgd(rate, decay, mu)
    assert angle_of(found.cosine_loss(1)) == pytest.approx(math.sqrt(2 * rate * decay / (1 + mu)), rel=1e-4)
    assert found.spread == pytest.approx(rate / (2 * decay * (1 - mu)), rel=1e-4)
    assert -math.log1p(-found.cosine_loss(10**7)) == pytest.approx(10**7 * rate * decay / (1 - mu), rel=1e-3)


def test_adamw_against_the_closed_forms_for_weak_decay():
    found = adamw(1e-4, 0.01, 0.9)
    assert angle_of(found.cosine_loss(1)) == pytest.approx(math.sqrt(2e-6 * 0.1 / 1.9), rel=1e-4)
    assert found.spread == pytest.approx(1e-4 / 0.02, rel=1e-4)


def test_lion_is_near_the_usual_approximation_and_decays_as_its_weights_do():
    one, two = 0.9, 0.99
    found = lion(1e-4, 0.01, (one, two))
    usual = math.sqrt(math.pi * 1e-6) * math.sqrt((1 - one) ** 2 + one**2 * (1 - two) / (1 + two))
    assert angle_of(found.cosine_loss(1)) == pytest.approx(usual, rel=0.01)
    assert -math.log1p(-found.cosine_loss(10**6)) == pytest.approx(1.0, rel=1e-2)
    alone = lion(1e-3, 0.1, (0.0, 0.0))  # signs of white noise: a walk of steps of one size
    assert alone.spread == pytest.approx(1e-6 / (1 - (1 - 1e-4) ** 2), rel=1e-9)


def test_a_fixed_norm_is_a_filter_of_one_more_pole():
    """Updates with correlation β^k move as AdamW's do, whose m is such a process of variance (1-β)/(1+β)."""
    rate, decay, beta = 1e-3, 0.1, 0.9
    one, other = fixed_norm(rate, decay, beta), adamw(rate, decay, beta)
    assert one.spread * (1 - beta) / (1 + beta) == pytest.approx(other.spread, rel=1e-9)
    for updates in (1, 2, 7, 100, 5000):
        assert one.cosine_loss(updates) == pytest.approx(other.cosine_loss(updates), rel=1e-8)
    still = fixed_norm(rate, decay, 0.0)
    assert math.sqrt(still.spread) * angle_of(still.cosine_loss(1)) == pytest.approx(rate, rel=1e-3)  # angle = ηU/‖w‖


def test_many_small_updates_lose_no_digits():
    found = adamw(1e-6, 1e-4, 0.9)
    assert found.cosine_loss(1) == pytest.approx(1e-10 * 0.1 / 1.9, rel=1e-6)
    assert found.cosine_loss(10**8) == pytest.approx(-math.expm1(-0.01), rel=1e-5)


def test_oscillating_poles_stay_real():
    found = sgd(1.0, 0.5, 0.9)
    assert isinstance(found.spread, float)
    assert 0.0 < found.cosine_loss(1) < 2.0


# --- against the optimizers -----------------------------------------------------------------------------------------

SHAPE = (50, 40)
SIZE, BURN, KEPT = 2000, 500, 700
LAGS = (1, 5, 50)


def driven(make: Callable[[Any], Any], radius: float, noise: float) -> tuple[float, dict[int, float]]:
    """Mean ‖w‖² and mean 1 - cosine by lag of a weight with gradients at right angles to it, of norm noise/‖w‖."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(SHAPE, generator=generator, dtype=torch.float64))
    weight.data *= radius / weight.data.norm()
    optimizer = make([weight])
    past: list[torch.Tensor] = []
    squares, losses = 0.0, dict.fromkeys(LAGS, 0.0)
    for step in range(BURN + KEPT):
        gradient = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        w = weight.detach()
        gradient -= w * (gradient * w).sum() / w.square().sum()
        weight.grad = gradient * (noise / (math.sqrt(SIZE) * float(w.norm())))
        optimizer.step()
        past = [*past[-LAGS[-1] :], weight.detach() / weight.detach().norm()]
        if step >= BURN:
            squares += float(w.square().sum()) / KEPT
            for lag in LAGS:
                losses[lag] += float((past[-1] - past[-1 - lag]).square().sum()) / 2 / KEPT
    return squares, losses


@pytest.mark.parametrize(("mu", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_torchs_sgd_on_a_sphere(mu: float, nesterov: bool):
    rate, decay = 0.5 * (1 - mu), 0.01
    found, noise = sgd(rate, decay, mu, nesterov=nesterov), 3.0
    radius = (found.spread * noise**2) ** 0.25  # E‖g‖² = noise²/‖w‖²
    squares, losses = driven(
        lambda p: torch.optim.SGD(p, lr=rate, weight_decay=decay, momentum=mu, nesterov=nesterov), radius, noise
    )
    assert math.sqrt(squares) == pytest.approx(radius, rel=0.01)
    for lag, loss in losses.items():
        assert angle_of(loss) == pytest.approx(angle_of(found.cosine_loss(lag)), rel=0.01), lag


def test_torchs_adamw():
    rate, decay, beta = 0.01, 0.5, 0.9
    found = adamw(rate, decay, beta)
    radius = math.sqrt(SIZE * found.spread)
    squares, losses = driven(
        lambda p: torch.optim.AdamW(p, lr=rate, weight_decay=decay, betas=(beta, 0.995), eps=1e-12), radius, 3.0
    )
    assert math.sqrt(squares) == pytest.approx(radius, rel=0.01)
    for lag, loss in losses.items():
        assert angle_of(loss) == pytest.approx(angle_of(found.cosine_loss(lag)), rel=0.01), lag


class Lion:
    """As published."""

    def __init__(self, parameters: Any, rate: float, decay: float, betas: tuple[float, float]) -> None:
        (self.weight,), self.rate, self.decay, self.betas = parameters, rate, decay, betas
        self.mean = torch.zeros_like(self.weight)

    @torch.no_grad()
    def step(self) -> None:
        one, two = self.betas
        update = (one * self.mean + (1 - one) * self.weight.grad).sign()
        self.weight.mul_(1 - self.rate * self.decay).sub_(self.rate * update)
        self.mean.mul_(two).add_(self.weight.grad, alpha=1 - two)


def test_lion_at_work():
    rate, decay, betas = 0.01, 0.5, (0.9, 0.98)
    found = lion(rate, decay, betas)
    radius = math.sqrt(SIZE * found.spread)
    squares, losses = driven(lambda p: Lion(p, rate, decay, betas), radius, 3.0)
    assert math.sqrt(squares) == pytest.approx(radius, rel=0.01)
    for lag, loss in losses.items():
        assert angle_of(loss) == pytest.approx(angle_of(found.cosine_loss(lag)), rel=0.01), lag


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.95},
        {"momentum": 0.9, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
    ],
    ids=["as published", "plain momentum"],
)
def test_torchs_muon(settings: dict[str, Any]):
    rate, decay = 0.02, 0.5
    optimizer = torch.optim.Muon([torch.nn.Parameter(torch.zeros(SHAPE))], lr=rate, weight_decay=decay, **settings)
    group = Group({key: value for key, value in optimizer.param_groups[0].items() if key != "params"}, (), "muon")
    found = equilibrium_of(group, rate, SHAPE)
    assert found is not None
    radius = math.sqrt(SIZE * found.spread)
    squares, losses = driven(lambda p: torch.optim.Muon(p, lr=rate, weight_decay=decay, **settings), radius, 3.0)
    assert math.sqrt(squares) == pytest.approx(radius, rel=0.01)
    for lag, loss in losses.items():
        assert angle_of(loss) == pytest.approx(angle_of(found.cosine_loss(lag)), rel=0.01), lag


def test_a_muon_whose_factor_is_not_known_turns_as_predicted_and_has_no_norm():
    group = Group({"weight_decay": 0.1, "momentum": 0.9, "ns_steps": 5, "adamw_betas": (0.9, 0.95)}, (), "muon")
    torchs = Group({"weight_decay": 0.1, "momentum": 0.9, "ns_steps": 5, "adjust_lr_fn": None}, (), "muon")
    unknown, known = equilibrium_of(group, 0.1, (8, 4)), equilibrium_of(torchs, 0.1, (8, 4))
    assert unknown is not None
    assert known is not None
    assert math.isnan(unknown.spread)
    assert unknown.cosine_loss(3) == known.cosine_loss(3)
    assert equilibrium_of(group, 0.1, (8,)) is None
    assert equilibrium_of(group, 0.1, (8, 1, 2, 2)) is not None


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9), "sgd"),
        (lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9, nesterov=True), "sgd"),
        (lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9, dampening=0.5), "sgd"),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1), "adamw"),
        (lambda p: torch.optim.Muon(p, lr=0.01, weight_decay=0.1), "muon"),
        (lambda p: torch.optim.Adafactor(p, lr=0.01, weight_decay=0.1), "adafactor"),
    ],
)
def test_what_decay_alone_leaves(make: Any, kind: str):
    """Without gradients a thousand updates leave e^(-1000r) of the weights (SGD: η·λ = 1e-3, but r = 1e-2)."""
    weight = torch.nn.Parameter(torch.full((2, 2), 1e3, dtype=torch.float64))
    optimizer = make([weight])
    for _ in range(500):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    first = float(weight.detach()[0, 0])
    for _ in range(500):
        optimizer.step()
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    rate = decay_rate(Group(settings, (), kind), 0.01)
    assert rate is not None
    assert float(weight.detach()[0, 0]) / first == pytest.approx((1 - rate) ** 500, rel=1e-4)


def test_where_nothing_can_be_said():
    assert decay_rate(Group({"weight_decay": 0.1, "lr": 1.0}, (), "adam"), 1.0) is None
    assert decay_rate(Group({"weight_decay": 0.1, "lr": 1.0}, (), "adam or adamw"), 1.0) is None
    assert decay_rate(Group({"weight_decay": 0.0, "lr": 1.0}, (), "unknown"), 1.0) == 0.0
    assert decay_rate(Group({"weight_decay": 0.1, "no_prox": False}, (), "adan"), 0.5) == pytest.approx(1 - 1 / 1.05)
    assert equilibrium_of(Group({"weight_decay": 0.0, "betas": (0.9, 0.9)}, (), "adamw"), 0.1) is None
    assert equilibrium_of(Group({"weight_decay": 0.1, "betas": (0.9, 0.9)}, (), "adam"), 0.1) is None
    coupled = {"weight_decay": 0.1, "betas": (0.9, 0.9), "weight_decouple": False}
    assert equilibrium_of(Group(coupled, (), "lion"), 0.1) is None
    assert equilibrium_of(Group({**SGD, "weight_decay": 1e-4}, (), "sgd"), 0.1) == sgd(0.1, 1e-4, 0.9)
    assert equilibrium_of(Group({"weight_decay": 0.1, "betas": (0.9, 0.95)}, (), "adamw"), 0.1) == adamw(0.1, 0.1, 0.9)
