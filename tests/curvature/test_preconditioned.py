"""Curvature with what the stored optimizer adds: diagonals beside torch's own updates, and weight decay."""

from collections.abc import Iterator

import pytest
import torch
from curvature.nets import whole
from torch import nn

from sounding import Finding, Metric, Reading, Unavailable, plugin
from sounding.curvature.preconditioned import adam_preconditioner, rmsprop_preconditioner
from sounding.passes import Curvature, Group, Optimizer
from sounding.passes.preconditioner import StoredOptimizer, coupled_decay, inverse_roots, preconditioner_in_words
from sounding.probe import Probe

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
PROBE = Probe(train=(X, Y))
SHOWN: dict[str, torch.Tensor] = {}
WORDS: list[str] = []


@plugin(version=1, cost="curvature", metrics=[Metric("largest", unit="1", meaning="test", source="test")])
def curved(curvature: Curvature) -> Iterator[Finding]:
    """Matrices are laid open for the test to look at."""
    hessian = curvature.hessian()
    SHOWN["hessian"] = whole(hessian)
    SHOWN["decayed"] = whole(curvature.decayed(hessian))
    operator = curvature.preconditioned(curvature.decayed(hessian))
    SHOWN["preconditioned"] = whole(operator)
    WORDS[:] = [operator.facts.preconditioner, operator.facts.weight_decay]
    yield Reading("largest", float(torch.linalg.eigvalsh(SHOWN["preconditioned"].double())[-1]))


def trained(make, steps=3):
    torch.manual_seed(4)
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = make(module)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(X), Y).backward()
        optimizer.step()
    module.zero_grad()
    return module, {"model": module.state_dict(), "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_diagonal_is_what_adam_divides_by(amsgrad):
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.8, 0.97), eps=1e-3, amsgrad=amsgrad)
    for step in range(1, 5):
        before = weight.detach().clone()
        weight.grad = torch.randn(7, dtype=torch.float64) / step
        optimizer.step()
        state = optimizer.state[weight]
        moment = state["max_exp_avg_sq" if amsgrad else "exp_avg_sq"]
        diagonal = adam_preconditioner(moment, step, (0.8, 0.97), 1e-3)
        torch.testing.assert_close(before - 0.1 * state["exp_avg"] / diagonal, weight.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_the_diagonal_is_what_rmsprop_divides_by(centered, momentum):
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.RMSprop([weight], lr=0.1, alpha=0.8, eps=1e-3, momentum=momentum, centered=centered)
    kept = torch.zeros(7, dtype=torch.float64)
    for step in range(1, 5):
        before = weight.detach().clone()
        weight.grad = torch.randn(7, dtype=torch.float64) / step
        optimizer.step()
        state = optimizer.state[weight]
        diagonal = rmsprop_preconditioner(state["square_avg"], state.get("grad_avg"), 1e-3)
        kept = momentum * kept + weight.grad / diagonal
        torch.testing.assert_close(before - 0.1 * kept, weight.detach(), rtol=1e-12, atol=1e-14)


def test_timms_rmsprop_adds_epsilon_under_the_root():
    settings = {"lr": 0.1, "alpha": 0.9, "eps": 0.5, "centered": True}
    state = {"square_avg": torch.tensor([1.0, 4.0]), "grad_avg": torch.tensor([0.5, -1.5])}
    for added, diagonal in (({}, [0.75**0.5 + 0.5, 1.75**0.5 + 0.5]), ({"lr_in_momentum": True}, [1.25**0.5, 1.5])):
        roots = inverse_roots(stored("rmsprop", {**settings, **added}, state), ["w"])["w"]
        assert roots.tolist() == pytest.approx([each**-0.5 for each in diagonal], rel=1e-12)
        words = preconditioner_in_words(stored("rmsprop", {**settings, **added}, state), ["w"])
        assert words.endswith("ε under the root") is bool(added)


@pytest.mark.parametrize("centered", [False, True])
def test_preconditioned_by_rmsprop_as_stored(sounding_plugin, centered):
    module, checkpoint = trained(
        lambda module: torch.optim.RMSprop(
            [{"params": module[0].parameters(), "lr": 0.02}, {"params": module[2].parameters(), "lr": 0.01}],
            momentum=0.5, centered=centered, weight_decay=0.1,
        )
    )  # fmt: skip
    readings = sounding_plugin(curved, model=module, probe=PROBE, checkpoint=checkpoint)
    states = checkpoint["optimizer"]["state"].values()
    variances = [each["square_avg"].double() - (each["grad_avg"].double() ** 2 if centered else 0.0) for each in states]
    shares = [1.0, 1.0, 2.0, 2.0]
    diagonal = torch.cat([s * (v.sqrt() + 1e-8).reshape(-1) for s, v in zip(shares, variances, strict=True)])
    decayed = SHOWN["hessian"].double() + 0.1 * torch.eye(len(diagonal), dtype=torch.float64)
    expected = decayed / diagonal.sqrt() / diagonal.sqrt()[:, None]
    torch.testing.assert_close(SHOWN["preconditioned"].double(), expected, rtol=1e-5, atol=1e-3)
    largest = torch.linalg.eigvals(decayed / diagonal[:, None]).real.max()
    assert readings[0].value == pytest.approx(float(largest), rel=1e-5)
    assert WORDS[0] == f"rmsprop,{' centered,' if centered else ''} no bias corrected, ε beside the root"


def test_preconditioned_as_stored(sounding_plugin):
    module, checkpoint = trained(
        lambda module: torch.optim.Adam(
            [{"params": module[0].parameters(), "lr": 0.02}, {"params": module[2].parameters(), "lr": 0.01}],
            weight_decay=0.1,
        )
    )
    readings = sounding_plugin(curved, model=module, probe=PROBE, checkpoint=checkpoint)
    states = checkpoint["optimizer"]["state"].values()
    shares = [1.0, 1.0, 2.0, 2.0]  # P of a group at half the rate counts twice at the first one's
    diagonal = torch.cat(
        [
            share * adam_preconditioner(each["exp_avg_sq"], 3, (0.9, 0.999), 1e-8).reshape(-1)
            for share, each in zip(shares, states, strict=True)
        ]
    )
    hessian = SHOWN["hessian"].double()
    decayed = hessian + 0.1 * torch.eye(len(hessian), dtype=torch.float64)
    torch.testing.assert_close(SHOWN["decayed"].double(), decayed, rtol=1e-6, atol=1e-7)
    expected = decayed / diagonal.sqrt() / diagonal.sqrt()[:, None]
    torch.testing.assert_close(SHOWN["preconditioned"].double(), expected, rtol=1e-5, atol=1e-3)
    largest = torch.linalg.eigvals(decayed / diagonal[:, None]).real.max()  # of P⁻¹H, which is not symmetric
    assert readings[0].value == pytest.approx(float(largest), rel=1e-5)
    assert WORDS == ["adam, step and bias corrections included", "coupled, 0.1"]


def test_a_plugin_that_asks_for_what_is_not_there_is_skipped(sounding_plugin):
    module, checkpoint = trained(lambda module: torch.optim.Adam(module.parameters()))
    found = sounding_plugin(curved, model=module, probe=PROBE, checkpoint={"model": checkpoint["model"]})
    assert found == []  # skipped with the reason, which the fixture lets pass
    with pytest.raises(Unavailable, match="holds no optimizer"):
        StoredOptimizer(None, "the checkpoint holds no optimizer state").required()


def stored(kind, settings, state):
    group = Group(settings, ("w",), kind)
    return Optimizer(kind, (group,), {"w": state}, "", {})


ADAM = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8}


@pytest.mark.parametrize(
    ("kind", "settings", "state", "reason"),
    [
        ("sgd", {"lr": 0.1}, {}, "it is trained by sgd"),
        ("adam", ADAM, {"step": 3}, "lacks second moment"),
        ("adam", {"lr": 0.1}, {"exp_avg_sq": torch.ones(2)}, "lacks step and eps and betas"),
        ("adam", {**ADAM, "amsgrad": True}, {"exp_avg_sq": torch.ones(2), "step": 3}, "lacks second moment"),
        ("adam", {**ADAM, "eps": 0.0}, {"exp_avg_sq": torch.zeros(2), "step": 3}, "by is 0 or not finite"),
        ("adam", ADAM, {"exp_avg_sq": torch.tensor([1.0, float("nan")]), "step": 3}, "by is 0 or not finite"),
        ("rmsprop", {"lr": 0.1}, {}, "lacks second moment and eps"),
        ("rmsprop", {"eps": 0.1, "centered": True}, {"square_avg": torch.ones(2)}, "lacks mean of gradients"),
        ("rmsprop", {"eps": 0.1, "centered": True}, {"square_avg": torch.ones(2), "grad_avg": 2 * torch.ones(2)},
         "what rmsprop divides `w` by is 0 or not finite"),
    ],
)  # fmt: skip
def test_what_an_optimizer_does_not_hold_is_said(kind, settings, state, reason):
    with pytest.raises(Unavailable, match=reason):
        inverse_roots(stored(kind, settings, state), ["w"])


def test_weight_decay_that_is_none_of_the_loss():
    assert coupled_decay(stored("sgd", {"weight_decay": 0.3}, {}), ["w"]) == {"w": 0.3}
    assert coupled_decay(stored("adamw", {"weight_decay": 0.3}, {}), ["w"]) == {"w": 0.0}
    with pytest.raises(Unavailable, match="cannot be known"):
        coupled_decay(stored("adam or adamw", {"weight_decay": 0.3}, {}), ["w"])
    with pytest.raises(Unavailable, match="no group of the optimizer is known to hold `v`"):
        coupled_decay(stored("sgd", {}, {}), ["v"])
