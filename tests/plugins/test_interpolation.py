"""Barriers that follow by hand, and paths that do not depend on scales nobody feels."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Curve, Unavailable
from sounding.passes import Elsewhere, LinearPath, mixed, offset
from sounding.passes.linear_path import brought_to, require_alike
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.interpolation import interpolation

BENT = {"loss": lambda outputs, targets, inputs: outputs[:, 0] ** 2 * targets}  # w² times a curvature of either sign


class Point(nn.Module):
    """A network that puts out its only weight."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[at]]))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.w


def values(findings: Sequence[Any], metric: str, split: str = "train") -> Any:
    return next(each for each in findings if getattr(each, "metric", "") == metric and each.split == split)


def between(trial: Trial, here: nn.Module, there: nn.Module, probe: Probe, **rest: Any) -> list[Any]:
    return trial(interpolation, model=here, probe=probe, previous={"model": there.state_dict()}, **rest)


@pytest.mark.parametrize("curvature", [-2.0, 3.0])
def test_the_barrier_of_a_parabola(sounding_plugin: Trial, curvature: float):
    probe = Probe(train=(torch.ones(5, 1), torch.full((5,), curvature / 2)))
    found = between(sounding_plugin, Point(3.0), Point(-1.0), probe, functions=BENT)
    curve = values(found, "loss")
    assert isinstance(curve, Curve)
    assert curve.y == pytest.approx([curvature / 2 * (-1 + 4 * share) ** 2 for share in curve.x], rel=1e-5)
    line = max(0.0, -curvature * (1 - -3) ** 2 / 8)  # |h|(b - a)²/8 where it is concave
    assert values(found, "loss_barrier_line").value == pytest.approx(line, abs=1e-5)
    heights = [curvature / 2 * (-1 + 4 * share / 10) ** 2 for share in range(11)]
    expected = max(heights) - (heights[0] + heights[-1]) / 2
    assert values(found, "loss_barrier_mean").value == pytest.approx(expected, rel=1e-5)
    assert values(found, "loss_barrier_line").stderr == pytest.approx(0.0, abs=1e-6)


def test_the_standard_error_is_of_paired_differences(sounding_plugin: Trial):
    targets = torch.tensor([-1.0, -2.0, -4.0, -5.0])
    probe = Probe(train=(torch.ones(4, 1), targets))
    reading = values(between(sounding_plugin, Point(2.0), Point(-2.0), probe, functions=BENT), "loss_barrier_line")
    assert reading.value == pytest.approx(4.0 * 3.0)
    assert reading.stderr == pytest.approx(float((4.0 * targets).double().std()) / math.sqrt(4))


def test_a_checkpoint_and_itself_have_no_barrier(sounding_plugin: Trial):
    net, probe = network(), images()
    found = between(sounding_plugin, net, copy.deepcopy(net), probe)
    for metric in ("loss_barrier_mean", "loss_barrier_line", "error_barrier_mean", "error_barrier_line"):
        for split in ("train", "heldout"):
            assert values(found, metric, split).value == pytest.approx(0.0, abs=1e-6)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        net[0].weight.mul_(10.0)  # BatchNorm's epsilon must not count
    net[1].train()
    for _ in range(20):
        net(torch.randn(64, 6))
    return net.eval()


def images() -> Probe:
    torch.manual_seed(1)
    return Probe(
        train=(torch.randn(96, 6), torch.randint(0, 4, (96,))), heldout=(torch.randn(50, 6), torch.randint(0, 4, (50,)))
    )


def rescaled(net: nn.Module, factors: torch.Tensor) -> nn.Module:
    """The same function: rows before BatchNorm and its statistics in other units."""
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[0].weight.mul_(factors[:, None])  # type: ignore[operator, union-attr]
        twin[0].bias.mul_(factors)  # type: ignore[operator, union-attr]
        twin[1].running_mean.mul_(factors)  # type: ignore[operator, union-attr]
        twin[1].running_var.mul_(factors**2)  # type: ignore[operator, union-attr]
    return twin


@pytest.mark.parametrize("end", ["this", "other"])
def test_rescaling_a_layer_changes_nothing(sounding_plugin: Trial, end: str):
    here, there, probe = network(0), network(7), images()
    factors = torch.linspace(3.0, 60.0, 8)
    plain = between(sounding_plugin, here, there, probe)
    ends = (rescaled(here, factors), there) if end == "this" else (here, rescaled(there, factors))
    found = between(sounding_plugin, *ends, probe)
    assert values(plain, "rescaled", "").value == 1
    for split in ("train", "heldout"):
        assert values(found, "loss", split).y == pytest.approx(values(plain, "loss", split).y, rel=2e-4)
        assert values(found, "loss_barrier_mean", split).value == pytest.approx(
            values(plain, "loss_barrier_mean", split).value, rel=1e-2
        )


def test_statistics_that_are_mixed_keep_their_weights(sounding_plugin: Trial):
    from sounding import Metric, plugin, shared_pass
    from sounding.passes import Other, Symmetries
    from sounding.passes.linear_path import linear_path

    @shared_pass(version=1)
    def stored_path(elsewhere: Elsewhere, symmetries: Symmetries, other: Other) -> LinearPath:
        return linear_path(elsewhere, symmetries, other, statistics="stored")

    @plugin(version=1, over="pair", against="previous", metrics=[Metric("loss", "loss", "loss", "test", kind="curve")])
    def stored(stored_path: LinearPath) -> Any:
        """The line with the running statistics mixed like the weights."""
        assert stored_path.rescaled == ()
        yield Curve("loss", stored_path.shares, stored_path.along("train", "loss") or ())

    here, there, probe = network(0), rescaled(network(7), torch.linspace(3.0, 60.0, 8)), images()
    given: dict[str, Any] = {"probe": probe, "previous": {"model": there.state_dict()}, "also": [stored_path]}
    curve = sounding_plugin(stored, model=here, **given)[0]
    with torch.no_grad():
        ends = [nn.functional.cross_entropy(each(probe.train[0]), probe.train[1]).item() for each in (there, here)]
    assert [curve.y[0], curve.y[-1]] == pytest.approx(ends, rel=1e-5)  # type: ignore[union-attr]


def test_statistics_of_a_sorted_probe_are_those_of_all_of_it(sounding_plugin: Trial):
    here = network()
    labels = (torch.arange(512) >= 256).long()  # two batches, as there are classes
    inputs = torch.randn(512, 6) + 8.0 * labels[:, None] - 4.0
    found = between(sounding_plugin, here, copy.deepcopy(here), Probe(train=(inputs, labels)))
    with torch.no_grad():
        hidden = here[0](inputs)  # type: ignore[operator]
        here[1].running_mean.copy_(hidden.mean(0))  # type: ignore[operator, union-attr]
        here[1].running_var.copy_(hidden.var(0))  # type: ignore[operator, union-attr]
        expected = nn.functional.cross_entropy(here(inputs), labels).item()
    assert values(found, "loss").y[-1] == pytest.approx(expected, rel=5e-3)


def test_without_the_canonical_scale_it_would(sounding_plugin: Trial):
    from sounding import Metric, plugin, shared_pass
    from sounding.passes import Other, Symmetries
    from sounding.passes.linear_path import linear_path

    @shared_pass(version=1)
    def raw_path(elsewhere: Elsewhere, symmetries: Symmetries, other: Other) -> LinearPath:
        return linear_path(elsewhere, symmetries, other, canonical=False)

    @plugin(version=1, over="pair", against="previous", metrics=[Metric("loss", "loss", "loss", "test", kind="curve")])
    def raw(raw_path: LinearPath) -> Any:
        """The line between weights as they are."""
        yield Curve("loss", raw_path.shares, raw_path.along("train", "loss") or ())

    here, there, probe = network(0), network(7), images()
    curves = [
        sounding_plugin(raw, model=here, probe=probe, previous={"model": each.state_dict()}, also=[raw_path])
        for each in (there, rescaled(there, torch.linspace(3.0, 60.0, 8)))
    ]
    assert max(abs(one - two) for one, two in zip(curves[0][0].y, curves[1][0].y, strict=True)) > 0.01  # type: ignore[union-attr]


def test_statistics_are_gathered_anew_and_the_effect_is_told(sounding_plugin: Trial):
    here, probe = network(), images()
    stale = copy.deepcopy(here)
    with torch.no_grad():
        stale[1].running_mean.add_(5.0)  # type: ignore[operator, union-attr]
    found = between(sounding_plugin, stale, stale, probe)
    inputs, targets = probe.train
    with torch.no_grad():
        stored = nn.functional.cross_entropy(stale(inputs), targets).item()
        hidden = stale[0](inputs)  # type: ignore[operator]
        fresh = copy.deepcopy(stale)
        fresh[1].running_mean.copy_(hidden.mean(0))  # type: ignore[operator, union-attr]
        fresh[1].running_var.copy_(hidden.var(0))  # type: ignore[operator, union-attr]
        anew = nn.functional.cross_entropy(fresh(inputs), targets).item()
    assert values(found, "reestimation_effect").value == pytest.approx(anew - stored, rel=1e-3)


def test_a_diverged_end_is_told_and_not_hidden(sounding_plugin: Trial):
    probe = Probe(train=(torch.ones(3, 1), torch.ones(3)))
    found = between(sounding_plugin, Point(math.nan), Point(1.0), probe, functions=BENT)
    assert math.isnan(values(found, "loss_barrier_line").value)


def test_runs_of_rows_take_the_norms_of_another_tensor():
    tensor, model = torch.randn(6, 5), torch.randn(6, 5)
    tensor[2:4] = 0.0
    found = brought_to(tensor, model, 3)
    assert found[:2].norm() == pytest.approx(float(model[:2].norm()), rel=1e-6)
    assert torch.equal(found[2:4], torch.zeros(2, 5))
    assert torch.allclose(found[:2] / found[:2].norm(), tensor[:2] / tensor[:2].norm())


def test_mixtures_and_offsets():
    one, two = {"w": torch.zeros(2), "n": torch.tensor(1)}, {"w": torch.ones(2), "n": torch.tensor(5)}
    assert mixed(one, two, 0.25)["w"].tolist() == [0.25, 0.25]
    assert [mixed(one, two, share)["n"].item() for share in (0.4, 0.6)] == [1, 5]
    moved = offset(two, {"w": torch.tensor([1.0, -1.0])}, 0.5)
    assert moved["w"].tolist() == [1.5, 0.5]
    assert moved["n"] is two["n"]


def test_networks_of_other_shapes_have_no_line_between_them():
    one, two = {"w": torch.ones(2)}, {"w": torch.ones(3)}
    with pytest.raises(Unavailable, match="`w` has another shape"):
        require_alike(one, two)
    with pytest.raises(Unavailable, match="`v`"):
        require_alike(one, {**one, "v": torch.ones(1)})
    require_alike(one, one)
