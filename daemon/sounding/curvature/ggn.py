"""Products with JᵀBJ of a chunk: the generalised Gauss-Newton matrix, and the empirical Fisher matrix.

For the Gauss-Newton matrix J is the Jacobian of the outputs and B the Hessian of the losses with respect to them. For
the empirical Fisher matrix J is the Jacobian of the losses themselves, one row each, and B holds their weights.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.func import jvp, vjp, vmap

from sounding.batch import tensors_in
from sounding.curvature.hessian import Slopes, forward_mode, slopes_of
from sounding.curvature.objective import Evaluated, Objective
from sounding.curvature.rewriting import Rewriting

Inner = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]  # B, on the tensors that J leads to
Of = Literal["outputs", "losses"]


class JacobianGraph:
    """The graph of a chunk's outputs and of u → Jᵀu, kept: a product is a pass forward (J), and one backward (Jᵀ)."""

    def __init__(
        self, of: Of, objective: Objective, chunk: range, places: Sequence[int], *, rewritten: bool = False
    ) -> None:
        self._leaves = [objective.leaves[place] for place in places]
        self._places = {place: number for number, place in enumerate(places)}
        with objective.prepared(), torch.enable_grad():
            with Rewriting(linear=True) if rewritten else contextlib.nullcontext():
                found = objective.evaluate(chunk)
            self.weight, self.loss = found.weight, found.loss
            self._ends = _ends(of, found)
            self._inner = _inner(of, objective, found, len(chunk))
            self._moving = [place for place, each in enumerate(self._ends) if each.requires_grad]
            moving = [self._ends[place] for place in self._moving]
            self._duals = [torch.zeros_like(each, requires_grad=True) for each in moving]
            self._slopes = (
                torch.autograd.grad(moving, self._leaves, self._duals, create_graph=True, allow_unused=True)
                if moving
                else [None] * len(self._leaves)
            )

    def product(self, tangents: Sequence[torch.Tensor], places: Sequence[int]) -> Slopes:
        """JᵀBJ on tangents of the parameters at `places`; None stands for zero."""
        numbers = [self._places[place] for place in places]
        pairs = [
            (slope, tangent.to(slope.dtype))
            for number, tangent in zip(numbers, tangents, strict=True)
            if (slope := self._slopes[number]) is not None
        ]
        if not pairs:
            return [None] * len(numbers)
        slopes, cotangents = zip(*pairs, strict=True)
        found = torch.autograd.grad(slopes, self._duals, cotangents, retain_graph=True, allow_unused=True)
        pushed = [torch.zeros_like(each) for each in self._ends]
        for place, each in zip(self._moving, found, strict=True):
            pushed[place] = pushed[place] if each is None else each
        bent = self._inner(pushed)
        return torch.autograd.grad(
            [self._ends[place] for place in self._moving],
            [self._leaves[number] for number in numbers],
            [bent[place] for place in self._moving],
            retain_graph=True,
            allow_unused=True,
        )


def jacobian_forward(
    of: Of, objective: Objective, chunk: range, tangents: Sequence[torch.Tensor], places: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """The same by jvp and vjp, for k tangents at once (their first dimension); nothing is kept."""

    def ends(*chosen: torch.Tensor) -> tuple[torch.Tensor, ...]:
        leaves = [each.detach() for each in objective.leaves]
        for place, leaf in zip(places, chosen, strict=True):
            leaves[place] = leaf
        return tuple(_ends(of, objective.evaluate(chunk, leaves)))

    def push(*tangent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made: tuple[torch.Tensor, ...] = jvp(ends, primals, tangent)[1]
        return made

    primals = tuple(objective.leaves[place].detach() for place in places)
    cast = tuple(tangent.to(primal.dtype) for tangent, primal in zip(tangents, primals, strict=True))
    with objective.prepared(), forward_mode():
        with torch.enable_grad():
            inner = _inner(of, objective, objective.evaluate(chunk), len(chunk))
        back = vjp(ends, *primals)[1]
        pushed = vmap(push)(*cast)
        rows = [inner([each[row] for each in pushed]) for row in range(len(cast[0]))]
        bent = tuple(torch.stack([row[place] for row in rows]) for place in range(len(pushed)))
        products: tuple[torch.Tensor, ...] = vmap(back)(bent)
    return products


def _ends(of: Of, found: Evaluated) -> list[torch.Tensor]:
    """What J leads to: the outputs, or the losses, of which those that weigh nothing count as constant."""
    if of == "losses":
        return [torch.where(found.weights != 0, found.values, 0.0)]
    return [each for each in tensors_in(found.outputs) if each.is_floating_point()]


def _inner(of: Of, objective: Objective, found: Evaluated, examples: int) -> Inner:
    """Products with B: the losses' weights, or the Hessian of the summed losses, by a graph that is kept."""
    if of == "losses":
        return lambda pushed: [found.weights * each for each in pushed]
    copies = [each.detach().requires_grad_() for each in _ends(of, found)]
    total = objective.judged(_exchanged(found.outputs, iter(copies)), found, examples).total
    slopes = slopes_of(total, copies, graph=True)

    def inner(pushed: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        pairs = [(s, p) for s, p in zip(slopes, pushed, strict=True) if s is not None and s.requires_grad]
        if not pairs:
            return [torch.zeros_like(each) for each in pushed]
        first, second = zip(*pairs, strict=True)
        found = torch.autograd.grad(first, copies, second, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if each is None else each for p, each in zip(pushed, found, strict=True)]

    return inner


def _exchanged(value: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """The same nested value with its floating-point tensors replaced, in order."""
    if isinstance(value, torch.Tensor):
        return next(tensors) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        made: Any = copy.copy(value)  # of its own type: a loss may read attributes
        for key, each in value.items():
            made[key] = _exchanged(each, tensors)
        return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_exchanged(each, tensors) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(_exchanged(each, tensors) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        exchanged = {each.name: _exchanged(getattr(value, each.name), tensors) for each in dataclasses.fields(value)}
        return dataclasses.replace(value, **exchanged)
    return value
