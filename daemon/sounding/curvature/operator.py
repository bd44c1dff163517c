"""Symmetric matrices known by their products with vectors alone, and the flat vectors that these act on."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from sounding.curvature.basis import length
from sounding.errors import SoundingError


class LinearOperator(Protocol):
    """A real symmetric matrix of `size` rows, in `dtype` on `device`."""

    @property
    def size(self) -> int:
        """Number of rows, which is the number of columns."""
        ...

    @property
    def device(self) -> torch.device:
        """Where vectors have to lie."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vectors."""
        ...

    @property
    def products(self) -> int:
        """Vectors multiplied so far: the cost that methods are compared by."""
        ...

    @property
    def cancelled(self) -> float:
        """How long a unit vector's product was before a like one was subtracted: rounding is of that; 0 without."""
        ...

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """Products with the rows of `vectors`, [k, size] to [k, size]; a new tensor."""
        ...


class Operator:
    """A linear operator made of a function that multiplies rows; checks them and counts."""

    def __init__(
        self, size: int, device: torch.device, dtype: torch.dtype, apply: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self.size = size
        self.device = device
        self.dtype = dtype
        self.products = 0
        self.cancelled = 0.0
        self._apply = apply

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """Products with the rows of `vectors`. Raises SoundingError for another shape or type."""
        if vectors.ndim != 2 or vectors.shape[1] != self.size or vectors.dtype != self.dtype:
            raise SoundingError(
                f"vectors are {vectors.dtype} of shape {tuple(vectors.shape)}, expected rows of {self.size} elements "
                f"in {self.dtype}: give `matmat` a tensor [vectors, {self.size}]."
            )
        self.products += len(vectors)
        return self._apply(vectors)


def difference(one: LinearOperator, other: LinearOperator) -> Operator:
    """A - B, in the type of A."""
    coarser = max(1.0, torch.finfo(other.dtype).eps / torch.finfo(one.dtype).eps)

    def apply(vectors: torch.Tensor) -> torch.Tensor:
        product, taken = one.matmat(vectors), other.matmat(vectors.to(other.dtype))
        for vector, *parts in zip(vectors, product, taken, strict=True):
            size, lengths = length(vector), [length(part) for part in parts]
            if size > 0.0:
                operator.cancelled = max(operator.cancelled, lengths[0] / size, coarser * lengths[1] / size)
        return product.sub_(taken)

    operator = Operator(one.size, one.device, one.dtype, apply)
    return operator


@dataclass(frozen=True)
class Layout:
    """How named tensors lie one after the other in a flat vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    def flat(self, named: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tensors of these names as one new vector. Raises SoundingError for a missing one or another shape."""
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in named or tuple(named[name].shape) != shape:
                found = f"of shape {tuple(named[name].shape)}" if name in named else "missing"
                raise SoundingError(f"`{name}` is {found}, expected a tensor of shape {shape}.")
        return torch.cat([named[name].detach().reshape(-1) for name in self.names])

    def named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of a vector's parts, by name and in shape."""
        return dict(zip(self.names, self.views(flat), strict=True))

    def views(self, flat: torch.Tensor) -> Iterator[torch.Tensor]:
        """Views of a vector's parts, in order and in shape."""
        return (part.view(shape) for part, shape in zip(torch.split(flat, list(self.sizes)), self.shapes, strict=True))

    def at(self, places: Sequence[int]) -> "Layout":
        """The layout of some of the tensors by themselves."""
        return Layout(tuple(self.names[place] for place in places), tuple(self.shapes[place] for place in places))

    def matching(self, pattern: str) -> tuple[int, ...]:
        """Places of the names in which a regular expression is found.

        Raises SoundingError when it is none, or finds nothing.
        """
        try:
            found = tuple(place for place, name in enumerate(self.names) if re.search(pattern, name))
        except re.error as error:
            raise SoundingError(f"{pattern!r} is no regular expression for parameters' names: {error}.") from None
        if not found:
            shown = ", ".join(self.names[:6]) + (", …" if len(self.names) > 6 else "")
            raise SoundingError(f"no parameter's name matches {pattern!r}; there are: {shown}")
        return found
