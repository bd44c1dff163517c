"""Products with the Hessian of a chunk's summed loss, by differentiating its gradient."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch.func import grad, jvp, vmap

from sounding.curvature.objective import Leaves, Objective
from sounding.curvature.rewriting import Rewriting

Slopes = Sequence[torch.Tensor | None]


class HessianGraph:
    """The graph of a chunk's gradient, kept: every further product is one backward pass through it.

    With `rewritten` some layers are computed by formulas that make it cheaper, see `Rewriting`.
    """

    def __init__(self, objective: Objective, chunk: range, places: Sequence[int], *, rewritten: bool = False) -> None:
        self._leaves = [objective.leaves[place] for place in places]
        self._places = {place: number for number, place in enumerate(places)}
        with objective.prepared(), torch.enable_grad():
            with Rewriting() if rewritten else contextlib.nullcontext():
                found = objective.evaluate(chunk)
            self.weight, self.loss = found.weight, found.loss
            self.slopes = slopes_of(found.total, self._leaves, graph=True)

    def product(self, tangents: Sequence[torch.Tensor], places: Sequence[int]) -> Slopes:
        """Σ_j ∂²/∂θ_i∂θ_j · tangent_j for the parameters at `places`; None stands for zero."""
        numbers = [self._places[place] for place in places]
        pairs = [
            (slope, tangent.to(slope.dtype))
            for number, tangent in zip(numbers, tangents, strict=True)
            if (slope := self.slopes[number]) is not None and slope.requires_grad
        ]
        if not pairs:
            return [None] * len(numbers)
        slopes, cotangents = zip(*pairs, strict=True)
        inputs = [self._leaves[number] for number in numbers]
        return torch.autograd.grad(slopes, inputs, cotangents, retain_graph=True, allow_unused=True)


def hessian_forward(
    objective: Objective, chunk: range, tangents: Sequence[torch.Tensor], places: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """The same by forward over reverse, for k tangents at once (their first dimension); nothing is kept."""

    def loss(chosen: tuple[torch.Tensor, ...]) -> torch.Tensor:
        leaves = [each.detach() for each in objective.leaves]
        for place, leaf in zip(places, chosen, strict=True):
            leaves[place] = leaf
        return objective.evaluate(chunk, leaves).total

    primals = tuple(objective.leaves[place].detach() for place in places)
    cast = tuple(tangent.to(primal.dtype) for tangent, primal in zip(tangents, primals, strict=True))

    def one(tangent: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        found: tuple[torch.Tensor, ...] = jvp(grad(loss), (primals,), (tangent,))[1]
        return found

    with objective.prepared(), forward_mode():
        products: tuple[torch.Tensor, ...] = vmap(one)(cast)
    return products


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """Forward derivatives of torch, which on their first use load what torch itself has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        yield


def slopes_of(total: torch.Tensor, leaves: Leaves, *, graph: bool) -> Slopes:
    """Gradient of a sum of losses; None for what it does not reach."""
    if not total.requires_grad:
        return [None] * len(leaves)
    return torch.autograd.grad(total, leaves, create_graph=graph, allow_unused=True)


def first_order(objective: Objective, chunk: range, *, slopes: bool) -> tuple[float, float, Slopes | None]:
    """Summed loss of a chunk, sum of its weights, and the summed loss's gradient where it is asked for."""
    with objective.prepared(), torch.set_grad_enabled(slopes):
        found = objective.evaluate(chunk)
        gradient = slopes_of(found.total, objective.leaves, graph=False) if slopes else None
    return found.loss, found.weight, gradient
