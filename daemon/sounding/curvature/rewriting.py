"""While a network is evaluated in here, layers that torch differentiates slowly a second time are those of `twice`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sounding.curvature.twice import Geometry, convolved, elementwise, normalised

_SMOOTH = (functional.gelu, functional.silu, functional.mish, functional.elu, functional.softplus)
_CHANNELS_LAST = torch.channels_last


class Rewriting(TorchFunctionMode):
    """Replaces calls of torch's functions by equal ones; what is not known here, or called in an odd way, stays.

    On a CPU two-dimensional convolutions are computed with the channels last, which is faster: results do not tell.
    """

    def __init__(self, *, linear: bool = False) -> None:
        super().__init__()
        self._linear = linear

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of every function of its own."""
        given = kwargs or {}
        if func in _SMOOTH:
            return self._elementwise(func, *args, **given)
        replacement = _REPLACEMENTS.get(func)
        found = None if replacement is None else replacement(*args, **given, linear=self._linear)
        return func(*args, **given) if found is None else found

    def _elementwise(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["input"]
        if not x.requires_grad:
            return func(*args, **kwargs)
        options = {key: each for key, each in kwargs.items() if key not in ("input", "inplace")}
        return elementwise(lambda each: func(each, *args[1:], **options), x, linear=self._linear)


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    linear: bool,
) -> torch.Tensor | None:
    del momentum
    shape = (1, -1, *[1] * (input.ndim - 2))
    if not training and running_mean is not None and running_var is not None:
        rate = torch.rsqrt(running_var + eps)
        rate = rate if weight is None else rate * weight
        shift = -running_mean * rate
        shift = shift if bias is None else shift + bias
        return input * rate.view(shape) + shift.view(shape)
    if not training or running_mean is not None or input.numel() <= input.shape[1]:
        return None  # what writes to its buffers, or is an error
    over = (0, *range(2, input.ndim))
    return _scaled(normalised(input, over, eps, centred=True, linear=linear), weight, bias, shape)


def _layer_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    linear: bool,
) -> torch.Tensor:
    over = tuple(range(-len(normalized_shape), 0))
    return _scaled(normalised(input, over, eps, centred=True, linear=linear), weight, bias)


def _rms_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
    *,
    linear: bool,
) -> torch.Tensor:
    least = torch.finfo(input.dtype).eps if eps is None else eps
    over = tuple(range(-len(normalized_shape), 0))
    return _scaled(normalised(input, over, least, centred=False, linear=linear), weight, None)


def _group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    linear: bool,
) -> torch.Tensor | None:
    if input.ndim < 2 or input.shape[1] % num_groups:
        return None
    grouped = input.reshape(len(input), num_groups, -1)
    normal = normalised(grouped, (-1,), eps, centred=True, linear=linear).view(input.shape)
    return _scaled(normal, weight, bias, (1, -1, *[1] * (input.ndim - 2)))


def _scaled(
    normal: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, shape: Sequence[int] | None = None
) -> torch.Tensor:
    if weight is not None:
        normal = normal * (weight if shape is None else weight.view(shape))
    if bias is not None:
        normal = normal + (bias if shape is None else bias.view(shape))
    return normal


def _convolution(
    space: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    linear: bool,
) -> torch.Tensor | None:
    if input.ndim != space + 2 or isinstance(padding, str):
        return None
    if space == 2 and input.device.type == "cpu":
        input, weight = input.contiguous(memory_format=_CHANNELS_LAST), weight.contiguous(memory_format=_CHANNELS_LAST)
    along = [[each] * space if isinstance(each, int) else list(each) for each in (stride, padding, dilation)]
    along = [each * space if len(each) == 1 else each for each in along]
    return convolved(input, weight, bias, Geometry(along[0], along[1], along[2], groups), linear=linear)


def _hard_sigmoid(input: torch.Tensor, inplace: bool = False, *, linear: bool) -> torch.Tensor:
    """In steps that have second derivatives, which torch's own lacks."""
    del inplace, linear
    return torch.clamp(input + 3.0, 0.0, 6.0) / 6.0


def _hard_swish(input: torch.Tensor, inplace: bool = False, *, linear: bool) -> torch.Tensor:
    return input * _hard_sigmoid(input, inplace, linear=linear)


def _view(tensor: torch.Tensor, *shape: Any, linear: bool) -> torch.Tensor | None:
    """Who asks for a view of a convolution's result does not expect the channels last."""
    del linear
    if tensor.ndim != 4 or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=_CHANNELS_LAST):
        return None
    return tensor.contiguous().view(*shape)


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., torch.Tensor | None]] = {
    functional.batch_norm: _batch_norm,
    functional.layer_norm: _layer_norm,
    functional.rms_norm: _rms_norm,
    functional.group_norm: _group_norm,
    functional.conv1d: partial(_convolution, 1),
    functional.conv2d: partial(_convolution, 2),
    functional.conv3d: partial(_convolution, 3),
    functional.hardsigmoid: _hard_sigmoid,
    functional.hardswish: _hard_swish,
    torch.Tensor.view: _view,
}
