"""Layers written so that a product with second derivatives is cheap: torch's own formulas take many more steps.

Each computes what its namesake in torch does, to rounding, and can be differentiated twice, not three times. With
`linear` the first derivative is a function of its cotangent alone: for who differentiates it by nothing else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import Function

Unary = Callable[[torch.Tensor], torch.Tensor]


class Geometry(NamedTuple):
    """How a convolution's kernel moves: one number for each dimension of space."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


def elementwise(function: Unary, x: torch.Tensor, *, linear: bool) -> torch.Tensor:
    """A smooth function of each element by itself; its two derivatives are computed once, and kept."""
    return _Elementwise.apply(x, function, linear)[0]  # type: ignore[no-any-return, no-untyped-call]


def normalised(x: torch.Tensor, over: Sequence[int], eps: float, *, centred: bool, linear: bool) -> torch.Tensor:
    """(x - mean) / √(variance + eps) over some dimensions, or, if it is not `centred`, x / √(mean of squares + eps)."""
    return _Normalised.apply(x, tuple(over), eps, centred, linear)[0]  # type: ignore[no-any-return, no-untyped-call]


def convolved(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, *, linear: bool
) -> torch.Tensor:
    """The convolution of a batch."""
    return _Convolved.apply(x, weight, bias, geometry, linear)  # type: ignore[no-any-return, no-untyped-call]


class _Elementwise(Function):
    """y = f(x), and f'(x), of which the gradient is a product that torch differentiates by itself."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, function: Unary, linear: bool) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            given = x.detach().requires_grad_()
            value = function(given)
            (slope,) = torch.autograd.grad(value.sum(), given, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), given)
        ctx.linear = linear
        slope = slope.detach()
        ctx.save_for_backward(slope, bend)
        ctx.set_materialize_grads(False)
        return value.detach(), slope

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None]:
        slope, bend = ctx.saved_tensors
        of_value, of_slope = cotangents
        found = None if of_value is None else of_value * (slope.detach() if ctx.linear else slope)
        if of_slope is not None:
            found = of_slope * bend if found is None else torch.addcmul(found, of_slope, bend)
        return found, None, None


class _Normalised(Function):
    """n = rate·(x - mean) and the rate; x itself is not kept."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, over: tuple[int, ...], eps: float, centred: bool, linear: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        moved = x - x.mean(over, keepdim=True) if centred else x
        rate = torch.rsqrt((moved * moved).mean(over, keepdim=True) + eps)
        normal = moved * rate
        ctx.over, ctx.centred, ctx.linear = over, centred, linear
        ctx.save_for_backward(normal, rate)
        ctx.set_materialize_grads(False)
        return normal, rate

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None, None, None]:
        normal, rate = ctx.saved_tensors
        if ctx.linear:
            normal, rate = normal.detach(), rate.detach()
        of_normal, of_rate = cotangents
        found = None
        if of_normal is not None:
            found = _NormalisedSlope.apply(of_normal, normal, rate, ctx.over, ctx.centred)  # type: ignore[no-untyped-call]
        if of_rate is not None:  # d rate = -rate²·⟨n, dx⟩ / count
            count = math.prod(normal.shape[each] for each in ctx.over)
            more = normal * (of_rate * rate * rate / -count)
            found = more if found is None else found + more
        return found, None, None, None, None


class _NormalisedSlope(Function):
    """rate·(g - mean(g) - n·mean(g·n)), as a function of g, n and the rate; as a function of g it is symmetric."""

    @staticmethod
    def forward(
        ctx: Any, g: torch.Tensor, normal: torch.Tensor, rate: torch.Tensor, over: tuple[int, ...], centred: bool
    ) -> torch.Tensor:
        ctx.over, ctx.centred = over, centred
        ctx.save_for_backward(g, normal, rate)
        return _across(g, normal, over, centred)[0].mul_(rate)

    @staticmethod
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        g, normal, rate = ctx.saved_tensors
        left, along = _across(v, normal, ctx.over, ctx.centred)
        of_normal = of_rate = None
        if ctx.needs_input_grad[1]:
            part = (g * normal).mean(ctx.over, keepdim=True)
            of_normal = torch.addcmul(v * (part * -rate), g, along * -rate)
        if ctx.needs_input_grad[2]:
            of_rate = (left * g).sum(ctx.over, keepdim=True)
        return left.mul_(rate), of_normal, of_rate, None, None


def _across(
    g: torch.Tensor, normal: torch.Tensor, over: tuple[int, ...], centred: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What of g lies across n and the constants, and mean(g·n); a new tensor."""
    part = (g * normal).mean(over, keepdim=True)
    left = torch.addcmul(g, normal, part, value=-1.0)
    return (left.sub_(g.mean(over, keepdim=True)) if centred else left), part


class _Convolved(Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry, linear: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.linear = geometry, linear
        return _convolution(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if ctx.linear:
            x, weight = x.detach(), weight.detach()
        needed = ctx.needs_input_grad
        of_x, of_weight = _ConvolvedSlopes.apply(g, x, weight, ctx.geometry, needed[0], needed[1])  # type: ignore[no-untyped-call]
        of_bias = g.sum((0, *range(2, g.ndim))) if needed[2] else None
        return of_x, of_weight, of_bias, None, None


class _ConvolvedSlopes(Function):
    """A convolution's gradients by its input and its weight; both are linear in the cotangent and in the other one."""

    @staticmethod
    def forward(
        ctx: Any,
        g: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        geometry: Geometry,
        of_x: bool,
        of_weight: bool,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        ctx.save_for_backward(g, x, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return _convolution_slopes(g, x, weight, geometry, of_x, of_weight)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        g, x, weight = ctx.saved_tensors
        by_x, by_weight = cotangents
        of_g = of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            parts = [] if by_x is None else [_convolution(by_x, weight, None, ctx.geometry)]
            parts += [] if by_weight is None else [_convolution(x, by_weight, None, ctx.geometry)]
            of_g = parts[0].add_(parts[1]) if len(parts) > 1 else next(iter(parts), None)
        if ctx.needs_input_grad[1] and by_weight is not None:
            of_x = _convolution_slopes(g, x, by_weight, ctx.geometry, True, False)[0]
        if ctx.needs_input_grad[2] and by_x is not None:
            of_weight = _convolution_slopes(g, by_x, weight, ctx.geometry, False, True)[1]
        return of_g, of_x, of_weight, None, None, None


def _convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
    stride, padding, dilation, groups = geometry
    still = [0] * len(stride)
    return torch.convolution(x, weight, bias, stride, padding, dilation, False, still, groups)


def _convolution_slopes(
    g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, geometry: Geometry, of_x: bool, of_weight: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    stride, padding, dilation, groups = geometry
    wanted = [of_x, of_weight, False]
    found = torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, [0] * len(stride), groups, wanted
    )
    return found[0], found[1]
