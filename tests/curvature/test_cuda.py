"""What an accelerator computes beside what the CPU does: the passes, the solver, and all that rests on them."""

import copy

import pytest
import torch
from curvature.nets import Case
from torch import nn

from sounding.curvature.eigenvalues import Wanted
from sounding.curvature.krylov import extremes, starting_vector
from sounding.curvature.operator import LinearOperator, difference
from sounding.curvature.probes import density, traces

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(48, 2, 6, 6, generator=GENERATOR)
LABELS = torch.arange(48) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    module = nn.Sequential(nn.Conv2d(2, 6, 3), norm, nn.GELU(), nn.Flatten(), nn.Linear(96, 8), nn.Tanh())
    module.append(nn.Linear(8, 4))
    module(3 * IMAGES + 1)
    return module.eval()


def numbers(operator: LinearOperator, gradient: torch.Tensor) -> dict[str, float]:
    """Both ends of the spectrum after a set number of steps; what probes across that space and a quadrature add."""
    found = extremes(operator, starting_vector(gradient, operator), Wanted(most_products=24, steady=25))
    sums, nodes = traces(operator, found), density(operator, found, depth=12)
    return {
        **{f"eigenvalue {place}": each.value for place, each in enumerate((*found.top, *found.bottom))},
        "trace": sums.trace.value,
        "frobenius": sums.frobenius.value,
        "mean of the density": float(nodes.nodes @ nodes.weights),
    }


def all_numbers(device: str) -> dict[str, dict[str, float]]:
    curved = Case(copy.deepcopy(network()), IMAGES, LABELS).curvature({"batch_size": 16}, device)
    hessian, gradient = curved.hessian(), curved.gradient()
    assert (hessian.device.type, gradient.device.type) == (device, device)
    found = {
        "hessian": numbers(hessian, gradient),
        "hessian, bn=train": numbers(curved.hessian("train"), curved.gradient("train")),
        "ggn": numbers(curved.ggn(), gradient),
        "fisher": numbers(curved.fisher(), gradient),
        "residual": numbers(difference(hessian, curved.ggn()), gradient),
    }
    found["loss"] = {"mean": curved.loss(), "at half": curved.loss_at(-0.5 * curved.gradient())}
    return found


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_curvature_on_a_cuda_device_is_that_of_the_cpu():
    here, there = all_numbers("cpu"), all_numbers("cuda")
    for matrix, expected in here.items():
        largest = max(map(abs, expected.values()))
        assert there[matrix] == pytest.approx(expected, rel=1e-4, abs=1e-4 * largest), matrix
