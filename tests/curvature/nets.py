"""Small networks of every kind, their probes, and what curvature is by definition: whole matrices in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sounding import Run
from sounding.passes import Curvature, Model
from sounding.passes.curvature import curvature
from sounding.passes.preconditioner import StoredOptimizer
from sounding.probe import Probe
from sounding.recipe import Recipe

Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Case:
    """A network with data; `loss` (outputs, targets) gives one value per example or token, or values and weights."""

    module: nn.Module
    inputs: Any
    targets: Any
    loss: Loss | None = None
    unit: str = "example"

    def curvature(self, attributes: dict[str, Any] | None = None, device: str = "cpu", **settings: Any) -> Curvature:
        probe = Probe(train=(self.inputs, self.targets), unit=self.unit)  # type: ignore[arg-type]
        functions: dict[str, Any] = {"architecture": lambda: self.module, "probe": lambda: probe}
        if self.loss is not None:
            own = self.loss
            functions["loss"] = lambda outputs, targets, inputs: own(outputs, targets)
        recipe = Recipe("here", 1, functions)
        run = Run("lab", "a", attributes or {})
        recipe._probes[repr((run.store, run.name, sorted(run.attributes.items())))] = {"default": probe}
        model = Model(self.module.to(device), recipe, torch.device(device))
        return curvature(model, recipe, run, StoredOptimizer(None, "none"), **settings)

    def judged(self, outputs: Any) -> tuple[Any, Any]:
        """Losses and weights, by the definition."""
        if self.loss is None:
            flat = F.cross_entropy(outputs.flatten(0, -2), self.targets.flatten(), reduction="none")
            return flat, (self.targets.flatten() != -100).to(flat.dtype)
        found = self.loss(outputs, self.targets)
        values, weights = found if isinstance(found, tuple) else (found, torch.ones_like(found))
        return values.flatten(), weights.flatten()

    def flat(self) -> torch.Tensor:
        return torch.cat([each.detach().flatten() for each in self.module.parameters() if each.requires_grad])

    def outputs(self, flat: torch.Tensor) -> Any:
        named = {name: each for name, each in self.module.named_parameters() if each.requires_grad}
        parts = flat.split([each.numel() for each in named.values()])
        given = {name: part.view_as(each) for (name, each), part in zip(named.items(), parts, strict=True)}
        return functional_call(self.module, given, (self.inputs,))

    def mean(self, flat: torch.Tensor) -> torch.Tensor:
        values, weights = self.judged(self.outputs(flat))
        return (values * weights).sum() / weights.sum()

    def dense_hessian(self) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return hessian(self.mean, self.flat())  # type: ignore[return-value]

    def dense_ggn(self) -> torch.Tensor:
        flat = self.flat()
        found = self.outputs(flat).detach()
        outer = jacobian(self.outputs, flat).reshape(found.numel(), -1)  # type: ignore[union-attr]

        def mean(outputs: torch.Tensor) -> torch.Tensor:
            values, weights = self.judged(outputs)
            return (values * weights).sum() / weights.sum()

        inner = hessian(mean, found).reshape(found.numel(), found.numel())
        return outer.T @ inner @ outer

    def dense_fisher(self) -> torch.Tensor:
        flat = self.flat()
        outer = jacobian(lambda at: self.judged(self.outputs(at))[0], flat)
        weights = self.judged(self.outputs(flat))[1]
        return (outer.T * weights) @ outer / weights.sum()


def whole(operator: Any) -> torch.Tensor:
    """All of an operator, a row at a time."""
    return operator.matmat(torch.eye(operator.size, dtype=operator.dtype))
