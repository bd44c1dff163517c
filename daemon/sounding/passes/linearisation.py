"""The pass `linearisation`: how well a network is still told by its gradients at an earlier checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sounding.contract import Unavailable, shared_pass
from sounding.passes.directions import flat
from sounding.passes.model import Model
from sounding.passes.other import Other
from sounding.passes.sample import Sample
from sounding.passes.tangent_kernel import TangentKernel

_AT_ONCE = 32  # examples


@dataclass(frozen=True)
class Linearisation:
    """f(θ_t) against f(θ_0) + J(θ_0)(θ_t - θ_0) on the kernel's examples; every norm is over examples and outputs."""

    before: float  # ‖f(θ_0)‖
    change: float  # ‖f(θ_t) - f(θ_0)‖
    missed: float  # ‖f(θ_t) - f(θ_0) - J(θ_0)(θ_t - θ_0)‖
    problem: str = ""  # why `missed` could not be had

    @property
    def error(self) -> float:
        """Share of the outputs' change that the linearised network does not make; NaN where nothing changed."""
        return self.missed / self.change if self.change else math.nan


@shared_pass(version=1)
def linearisation(model: Model, tangent_kernel: TangentKernel, other: Other) -> Linearisation:
    """Of the network as it was at the second checkpoint of the pair: one forward and two backward passes there."""
    first: Model = other.model
    before: torch.Tensor = other.tangent_kernel.values
    change = tangent_kernel.values - before
    moves = _moves(model, first)
    try:
        told = torch.cat([_slope(first, tangent_kernel.sample, moves, at) for at in range(0, len(before), _AT_ONCE)])
    except RuntimeError as error:
        problem = f"its gradients cannot be differentiated once more ({error})"
        return Linearisation(float(before.norm()), float(change.norm()), math.nan, problem)
    return Linearisation(float(before.norm()), float(change.norm()), float((change - told).norm()))


def _moves(model: Model, first: Model) -> Mapping[str, torch.Tensor]:
    now, then = model.parameters(), first.parameters()
    if {name: each.shape for name, each in now.items()} != {name: each.shape for name, each in then.items()}:
        raise Unavailable("the two networks differ in the names or shapes of their trainable parameters")
    return {name: (now[name].detach() - then[name].detach()) for name in now}


def _slope(model: Model, sample: Sample, moves: Mapping[str, torch.Tensor], start: int) -> torch.Tensor:
    """J·moves for some examples, [examples, outputs], float64 on the CPU.

    Jᵀu is linear in u, so that J·v is the gradient of ⟨Jᵀu, v⟩ with respect to u: any u will do.
    """
    stop = min(start + _AT_ONCE, len(sample))
    parameters = model.parameters()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused ones cannot be differentiated twice
        outputs = flat(model.outputs(sample.rows(start, stop)), stop - start)
        cotangent = torch.zeros_like(outputs, requires_grad=True)
        slopes = torch.autograd.grad(
            outputs, list(parameters.values()), cotangent, create_graph=True, allow_unused=True
        )
        pairs = zip(parameters, slopes, strict=True)
        total = sum((slope * moves[name]).sum() for name, slope in pairs if slope is not None)
        assert isinstance(total, torch.Tensor), "some parameter moves the outputs, or there were no kernel"
        (found,) = torch.autograd.grad(total, [cotangent])
    return found.detach().cpu().double()
