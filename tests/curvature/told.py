"""What plugins tell of curvature, picked from their findings, and the Hessian of a small network written out."""

from typing import Any

import torch
from torch import nn

from sounding import Reading, Skip


def values(findings: Any, kind: str = "hessian", part: str = "") -> dict[str, Reading]:
    return {
        each.metric: each
        for each in findings
        if isinstance(each, Reading) and each.kind == kind and each.part == part and each.index is None
    }


def listed(findings: Any, metric: str, kind: str) -> list[Reading]:
    found = [e for e in findings if isinstance(e, Reading) and e.metric == metric and e.kind == kind]
    return sorted(found, key=lambda each: each.index or 0)


def skips(findings: Any) -> str:
    return "; ".join(each.reason for each in findings if isinstance(each, Skip))


def squared(outputs: Any, targets: Any, inputs: Any):
    return ((outputs - targets) ** 2).mean(1)


def six_features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(120, 6, generator=generator)
    return inputs, (inputs @ torch.randn(6, 4, generator=generator)).argmax(1)


def perceptron() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def hessian_of(model: nn.Module, data: Any) -> torch.Tensor:
    """The Hessian of the mean cross-entropy written out, in float64."""
    twin = {name: each.detach().double() for name, each in model.named_parameters()}
    shapes = [each.shape for each in twin.values()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        given = {name: part.view(shape) for name, part, shape in zip(twin, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(model.double(), given, (data[0].double(),))
        return nn.functional.cross_entropy(outputs, data[1])

    return torch.autograd.functional.hessian(loss, torch.cat([each.reshape(-1) for each in twin.values()]))
