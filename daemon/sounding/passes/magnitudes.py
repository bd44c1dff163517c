"""The pass `magnitudes`: sums of squares, extremes and counts of every parameter, each read when it is asked for."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from sounding.contract import shared_pass
from sounding.keyed import Keyed
from sounding.numbers import CHUNK, FAINT, PART, equal_parts, sum_of_squares
from sounding.passes.weights import Weights

Floats = NDArray[np.float64]

_BLOCK = 2 * CHUNK  # elements: in float32 they stay in a core's cache, and the calls' own time hardly counts


class Extremes:
    """What looking at every element of a tensor tells; NaN, where there is one, is both the least and the greatest."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.zeros = self.nans = self.infinities = 0
        self._marks = np.empty(0, dtype=np.bool_)

    def look(self, values: NDArray[np.floating]) -> None:
        """Take in some elements. What is rare is looked for, and counted only where there is any."""
        low, high = float(np.minimum.reduce(values)), float(np.maximum.reduce(values))
        self.low, self.high = low if not low >= self.low else self.low, high if not high <= self.high else self.high
        if len(self._marks) < len(values):
            self._marks = np.empty(len(values), dtype=np.bool_)
        filled = np.not_equal(values, 0, out=self._marks[: len(values)])
        if not np.logical_and.reduce(filled):
            self.zeros += len(values) - int(np.count_nonzero(filled))
        if not math.isfinite(low) or not math.isfinite(high):
            self.nans += int(np.count_nonzero(np.isnan(values)))
            self.infinities += int(np.count_nonzero(np.isinf(values)))


class Magnitude:
    """What is told of one tensor. A row is what belongs to one output: a slice along the first dimension.

    Sums take one pass over the file. So do extremes and counts, which bring the sums with them: who wants both asks for
    one of those first.
    """

    def __init__(self, shape: tuple[int, ...], tensor: Callable[[], torch.Tensor]) -> None:
        self.shape = shape
        self._tensor = tensor

    @cached_property
    def rows(self) -> Floats:
        """Sum of squares of every row; of a vector or scalar, one row."""
        return _row_squares(self._matrix(), None) if self.count else np.zeros(0)

    @cached_property
    def _extremes(self) -> Extremes:
        found = Extremes()
        if self.count:
            vars(self)["rows"] = _row_squares(self._matrix(), found.look)
        else:
            found.low = found.high = 0.0
        return found

    @property
    def low(self) -> float:
        """Smallest value; NaN where there is one, 0 of an empty tensor."""
        return self._extremes.low

    @property
    def high(self) -> float:
        """Largest value; NaN where there is one, 0 of an empty tensor."""
        return self._extremes.high

    @property
    def max_abs(self) -> float:
        """Largest absolute value; NaN where there is one."""
        return float(np.maximum(abs(self.low), abs(self.high)))

    @property
    def zeros(self) -> int:
        """Elements that are 0 or -0."""
        return self._extremes.zeros

    @property
    def nans(self) -> int:
        """Elements that are not a number."""
        return self._extremes.nans

    @property
    def infinities(self) -> int:
        """Elements that are infinite."""
        return self._extremes.infinities

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def squares(self) -> float:
        """Sum of squares of all elements."""
        return float(self.rows.sum())

    @property
    def norm(self) -> float:
        """Frobenius norm."""
        return math.sqrt(self.squares)

    @property
    def dead_rows(self) -> int:
        """Rows whose norm is below 1e-6 of the median row's, and all rows where the median is zero too."""
        return int(np.count_nonzero(self.rows <= 1e-12 * np.median(self.rows)))

    def slice_norms(self, slices: int) -> Floats:
        """Norms of equal runs of rows, e.g. of attention heads. Raises ValueError where rows cannot be dealt out so."""
        return np.asarray(np.sqrt(self.rows.reshape(slices, -1).sum(axis=1)))

    def _matrix(self) -> torch.Tensor:
        return self._tensor().detach().reshape(self.shape[0] if len(self.shape) > 1 else 1, -1)


class Magnitudes(Keyed[str, Magnitude]):
    """Magnitudes of the trained parameters by name, tied ones once."""

    @property
    def norm(self) -> float:
        """Norm of all parameters taken as one vector."""
        return math.sqrt(sum(each.squares for each in self.values()))

    @property
    def count(self) -> int:
        """Elements of all parameters."""
        return sum(each.count for each in self.values())


@shared_pass(version=1)
def magnitudes(weights: Weights) -> Magnitudes:
    """Sums of squares to 1e-6 whatever the size, extremes and counts."""
    parameters = weights.parameters()
    return Magnitudes({name: Magnitude(weights.shape(name), _later(parameters, name)) for name in parameters})


def magnitude_of(tensor: torch.Tensor) -> Magnitude:
    """One tensor's."""
    return Magnitude(tuple(tensor.shape), lambda: tensor)


def _later(tensors: Mapping[str, torch.Tensor], name: str) -> Callable[[], torch.Tensor]:
    return lambda: tensors[name]


@np.errstate(over="ignore", invalid="ignore")
def _row_squares(matrix: torch.Tensor, look: Callable[[NDArray[np.floating]], None] | None) -> Floats:
    """The sum of squares of every row, and a `look` at all elements on the way, while they are in the cache.

    Rows are summed in equal parts of float32 products, the parts in float64; what float32 cannot square is squared in
    float64 after all.
    """
    height, width = matrix.shape
    single = matrix.dtype == torch.float32 or matrix.itemsize < 4  # of float32 every narrower type is a part
    part = min(width, PART) if height == 1 else equal_parts(width)
    single = single and part > 0
    dtype, flat = torch.float32 if single else torch.float64, matrix.reshape(-1)
    part = part or width
    sums = np.empty(-(-flat.numel() // part), dtype=np.float32 if single else np.float64)
    for start, block in _blocks(flat, part, dtype):
        np.vecdot(block, block, out=sums[start : start + len(block)])
        if look:
            look(block.reshape(-1))
    rows = sums.reshape(height, -1).sum(axis=1, dtype=np.float64)
    doubtful = np.flatnonzero(~((rows > FAINT * width) & (rows < math.inf))) if single else ()
    if len(doubtful):
        rows[doubtful] = _exactly(matrix, torch.from_numpy(doubtful))
    return np.asarray(rows)


def _blocks(flat: torch.Tensor, part: int, dtype: torch.dtype) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Everything once, as parts below each other with the first one's number; a vector's last part may be shorter."""
    count, rest = divmod(flat.numel(), part)
    step = max(1, _BLOCK // part)
    parts = flat[: count * part].reshape(-1, part)
    if flat.dtype == dtype:
        mapped = parts.numpy()
        yield from ((start, mapped[start : start + step]) for start in range(0, count, step))
    else:
        room = torch.empty(min(step, count), part, dtype=dtype)  # one for all: to get a new one each time takes longer
        for start in range(0, count, step):
            block = parts[start : start + step]
            yield start, room[: len(block)].copy_(block).numpy()
    if rest:
        yield count, flat[count * part :].to(dtype).numpy().reshape(1, -1)


def _exactly(matrix: torch.Tensor, chosen: torch.Tensor) -> Floats:
    """Sums of squares of some rows, in float64."""
    width = matrix.shape[1]
    if width > CHUNK:
        return np.array([sum_of_squares(matrix[row]) for row in chosen.tolist()])
    step = CHUNK // width
    parts = (chosen[start : start + step] for start in range(0, len(chosen), step))
    blocks = (matrix[some].to(torch.float64).numpy() for some in parts)
    return np.concatenate([np.vecdot(block, block) for block in blocks])
