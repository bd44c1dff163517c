"""Products beside whole matrices in float64, by every engine."""

import pytest
import torch
from curvature.nets import Case, whole
from torch import nn

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 3


def mlp():
    torch.manual_seed(1)
    return Case(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double(), X, Y)


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@pytest.mark.parametrize("matrix", ["hessian", "ggn", "fisher"])
def test_equal_dense(matrix, engine):
    case = mlp()
    found = whole(getattr(case.curvature(engine=engine), matrix)())
    torch.testing.assert_close(found, getattr(case, f"dense_{matrix}")(), rtol=1e-10, atol=1e-13)
