"""Ranks that were planted, units that were made to fire together, and Gram matrices written out."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from sounding import Metric, Reading, Skip, plugin
from sounding.passes import LayerGrams
from sounding.probe import Probe
from sounding.testing import Trial
from sounding_plugins.degeneracy import degeneracy, interaction_of

COUNT = 40


def readings(findings: Sequence[Any], part: str) -> dict[str, Reading]:
    return {each.metric: each for each in findings if isinstance(each, Reading) and each.part == part}


def values(findings: Sequence[Any], part: str) -> dict[str, float | None]:
    return {name: each.value for name, each in readings(findings, part).items()}


def test_planted_ranks_are_found(sounding_plugin: Trial):
    torch.manual_seed(0)
    inputs = torch.randn(COUNT, 3) @ torch.randn(3, 8)  # rank 3, and 4 with the bias's 1
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(5, 2) @ torch.randn(2, 6))  # type: ignore[union-attr, operator]
    probe = Probe(train=(inputs, torch.randint(0, 5, (COUNT,))))
    found = sounding_plugin(degeneracy, model=net, probe=probe)
    first, last = values(found, "0"), values(found, "1")
    assert (first["activation_rank"], first["activation_deficiency"]) == (4, 5)
    assert (first["gradient_rank"], first["gradient_deficiency"]) == (2, 4)  # what the head's two directions let by
    assert (last["gradient_rank"], last["gradient_deficiency"]) == (4, 1)  # logits' gradients sum to zero
    assert first["interaction_rank"] == 2
    assert last["interaction_rank"] == 2
    assert first["free_fraction"] == pytest.approx(1 - 4 * 2 / (9 * 6))
    assert first["rows"] == COUNT


def test_a_sample_bounds_the_rank_and_says_so(sounding_plugin: Trial):
    torch.manual_seed(0)
    probe = Probe(train=(torch.randn(6, 20), torch.randint(0, 3, (6,))))
    found = readings(sounding_plugin(degeneracy, model=nn.Sequential(nn.Linear(20, 3)), probe=probe), "0")
    assert (found["activation_rank"].value, found["activation_rank"].quality) == (6, "unresolved")
    assert found["gradient_rank"].quality == "ok"


def rectified() -> tuple[nn.Sequential, Probe]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        weight, bias = net[0].weight, net[0].bias  # type: ignore[union-attr]
        weight[1], bias[1] = 3.0 * weight[0], 3.0 * bias[0]  # type: ignore[index, operator]
        weight[2], bias[2] = 0.0, -1.0  # type: ignore[index, operator]
    return net, Probe(train=(torch.randn(COUNT, 4), torch.randint(0, 3, (COUNT,))))


def test_units_that_fire_together_and_never(sounding_plugin: Trial):
    net, probe = rectified()
    found = sounding_plugin(degeneracy, model=net, probe=probe)
    assert values(found, "2")["synchronous_units"] == 1
    assert values(found, "2")["silent_units"] == 1
    assert [each.part for each in found if isinstance(each, Skip)] == ["0"]  # whose inputs are no ReLU's


@plugin(version=1, cost="gradient", metrics=[Metric("entry", "1", "entries", "test")])
def looking(layer_grams: LayerGrams) -> Any:
    """Every entry of every matrix."""
    for name, layer in layer_grams.layers.items():
        for kind, matrix in (("inputs", layer.inputs), ("gradients", layer.gradients), ("jacobian", layer.jacobian),
                             ("interaction", interaction_of(layer))):  # fmt: skip
            for index, value in enumerate(matrix.reshape(-1).tolist()):
                yield Reading("entry", value, part=name, kind=kind, index=index)
    yield Reading("entry", float(layer_grams.exact), part="exact")


def test_the_matrices_are_those_written_out(sounding_plugin: Trial):
    net, probe = rectified()
    found = sounding_plugin(looking, model=net, probe=probe)

    def seen(part: str, kind: str) -> torch.Tensor:
        entries = [each.value for each in found if isinstance(each, Reading) and (each.part, each.kind) == (part, kind)]
        return torch.tensor(entries, dtype=torch.float64).reshape(int(len(entries) ** 0.5), -1)

    inputs, targets = probe.train[0].double(), probe.train[1]
    twin = net.double()
    hidden = twin[0](inputs)  # type: ignore[operator]
    rows = torch.cat([inputs, torch.ones(COUNT, 1)], 1)
    assert torch.allclose(seen("0", "inputs"), rows.T @ rows, rtol=1e-5, atol=1e-5)
    logits = twin[2](hidden.relu())  # type: ignore[operator]
    slopes = torch.autograd.grad(
        nn.functional.cross_entropy(logits, targets, reduction="sum"), hidden, retain_graph=True
    )[0]
    assert torch.allclose(seen("0", "gradients"), slopes.T @ slopes, rtol=1e-4, atol=1e-6)
    back = [torch.autograd.grad(logits[:, k].sum(), hidden, retain_graph=True)[0] for k in range(3)]
    jacobian = sum((each.T @ each for each in back), torch.zeros(6, 6, dtype=torch.float64))
    assert torch.allclose(seen("0", "jacobian"), jacobian, rtol=1e-4, atol=1e-6)
    moment = inputs.T @ inputs
    weight = twin[0].weight.detach()  # type: ignore[union-attr]
    felt = weight.T @ jacobian @ weight  # type: ignore[operator]
    expected = torch.linalg.eigvals(moment @ felt).real.sort().values
    assert torch.allclose(torch.linalg.eigvalsh(seen("0", "interaction")), expected, rtol=1e-3, atol=1e-3)
    assert values(found, "exact")["entry"] == 1.0


def test_rescaled_units_interact_as_before(sounding_plugin: Trial):
    net, probe = rectified()
    twin = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        twin[0].weight.mul_(30.0)  # type: ignore[union-attr, operator]
        twin[0].bias.mul_(30.0)  # type: ignore[union-attr, operator]
        twin[2].weight.div_(30.0)  # type: ignore[union-attr, operator]
    one, other = (sounding_plugin(degeneracy, model=each, probe=probe) for each in (net, twin))
    assert values(one, "2") == values(other, "2")


def test_a_network_without_linear_layers_is_skipped(sounding_plugin: Trial):
    net = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())
    probe = Probe(train=(torch.randn(9, 1, 4, 4), torch.randint(0, 3, (9,))))
    assert sounding_plugin(degeneracy, model=net, probe=probe) == []
    assert "no linear layer" in sounding_plugin.reason
