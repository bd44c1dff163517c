"""Gradients of each example's outputs with respect to all trainable parameters, as rows of a matrix."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from sounding.calling import Called
from sounding.passes.directions import Directions, flat
from sounding.passes.model import Model
from sounding.passes.sample import Sample

TRIED = 2
_AT_ONCE = 32  # examples that go through the network together


class GradientsOf(Protocol):
    """Gradients of the examples from `start` up to `stop`, [stop - start, parameters]."""

    def __call__(self, start: int, stop: int, number: int) -> torch.Tensor:
        """Of the outputs in direction `number`."""
        ...


def example_gradients(
    model: Model, sample: Sample, directions: Directions
) -> tuple[GradientsOf, Literal["jacobian", "loop"]]:
    """All at once by `vmap` where the network can be mapped over examples, else one after the other.

    It is tried on the first `TRIED` examples.
    """
    mapped = _Mapped(model, sample, directions)
    try:
        mapped(0, TRIED, 0)
    except (RuntimeError, ValueError, NotImplementedError, TypeError):  # control flow by values, operations in place …
        return _Single(model, sample, directions), "loop"
    return mapped, "jacobian"


class _Mapped:
    def __init__(self, model: Model, sample: Sample, directions: Directions) -> None:
        self._sample, self._directions = sample, directions
        self._parameters = {f"module.{name}": each.detach() for name, each in model.parameters().items()}
        self._caller = Called(model.module, model.recipe.forward)

    def __call__(self, start: int, stop: int, number: int) -> torch.Tensor:
        def along(parameters: Mapping[str, torch.Tensor], inputs: Any) -> torch.Tensor:
            outputs = flat(functional_call(self._caller, dict(parameters), (_batch_of_one(inputs),)), 1)[0]
            return outputs @ self._directions.get(number, outputs)

        each = vmap(grad(along), in_dims=(None, 0), chunk_size=_AT_ONCE)
        with sdpa_kernel(SDPBackend.MATH):  # the fused ones cannot be mapped
            slopes = each(self._parameters, self._sample.rows(start, stop))
        return torch.cat([slopes[name].reshape(stop - start, -1) for name in self._parameters], dim=1)


class _Single:
    def __init__(self, model: Model, sample: Sample, directions: Directions) -> None:
        self._model, self._sample, self._directions = model, sample, directions

    def __call__(self, start: int, stop: int, number: int) -> torch.Tensor:
        parameters = list(self._model.parameters().values())
        rows: list[torch.Tensor] = []
        for place in range(start, stop):
            with torch.enable_grad():
                outputs = flat(self._model.outputs(self._sample.rows(place, place + 1)), 1)[0]
                slopes = torch.autograd.grad(
                    outputs @ self._directions.get(number, outputs), parameters, allow_unused=True
                )
            filled = [
                torch.zeros_like(own) if slope is None else slope for own, slope in zip(parameters, slopes, strict=True)
            ]
            rows.append(torch.cat([each.reshape(-1) for each in filled]))
        return torch.stack(rows)


def _batch_of_one(inputs: Any) -> Any:
    if isinstance(inputs, torch.Tensor):
        return inputs.unsqueeze(0)
    if isinstance(inputs, Mapping):
        return {key: _batch_of_one(each) for key, each in inputs.items()}
    return tuple(_batch_of_one(each) for each in inputs)
