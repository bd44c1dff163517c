"""How much memory products take, measured on a few examples and told for many before anything large is begun."""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sounding.batch import tensors_in
from sounding.contract import Unavailable

CHUNK = 512 << 20  # bytes that products with one chunk should not exceed by much: beyond, nothing is gained
CHUNK_CPU = 128 << 20  # there nothing is gained beyond this: a ResNet-20 is as fast in two halves, in 70 MiB less
OWN = 5  # vectors that products make themselves: gradient, argument, result, and one in the making
LEAST = OWN + 8  # vectors that must fit in all: enough for the largest eigenvalue
MOST = 40  # vectors that are left room for where there is plenty


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of tensors made inside that are alive (`live`), and the most there were at once (`peak`)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here, and torch would load its compiler to make sure: seconds

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        fresh = [each for each in _storages(made) if id(each) not in self._known]
        if fresh:  # new, unless it is a view of something older than all this
            given = {id(each) for each in _storages((args, kwargs))}
            for storage in fresh:
                if id(storage) not in given:
                    self._note(storage)
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        if self._known.pop(key, None) is not None:
            self.live -= size


def _storages(value: Any) -> list[torch.UntypedStorage]:
    if isinstance(value, torch.Tensor):
        return [value.untyped_storage()]
    return [each.untyped_storage() for each in tensors_in(value)]


@dataclass(frozen=True)
class Need:
    """Bytes for products with a chunk of n examples.

    `kept` + n·`kept_each` are held by its graph, and `most` + n·`most_each` while a product is computed.
    """

    kept: float
    kept_each: float
    most: float
    most_each: float

    def graph(self, examples: int) -> float:
        """Bytes of a graph that is kept."""
        return self.kept + examples * self.kept_each

    def peak(self, examples: int) -> float:
        """Bytes while a product is computed, its own graph included."""
        return self.most + examples * self.most_each


def need_of(*measured: tuple[int, int, int]) -> Need:
    """From (examples, live, peak) of measurements: a line through the last two, or in proportion to a single one.

    Neither falls nor begins below zero. In proportion too much is told, as weights do not grow with examples.
    """
    (n, live, peak), (m, more, higher) = measured[0], measured[-1]
    if n == m:
        return Need(0.0, live / n, 0.0, peak / n)
    kept_each, most_each = max(0.0, (more - live) / (m - n)), max(0.0, (higher - peak) / (m - n))
    return Need(max(0.0, live - n * kept_each), kept_each, max(0.0, peak - n * most_each), most_each)


@dataclass(frozen=True)
class Memory:
    """What may be taken in all, in bytes, beyond the network itself: graphs, and vectors of `vector` bytes each."""

    budget: float
    vector: int
    chunk: int = CHUNK  # bytes for one chunk, where there is plenty

    @property
    def vectors(self) -> int:
        """How many vectors there is room for beside the graphs."""
        return max(LEAST, min(MOST, int(self.budget / 2 / self.vector)))

    @property
    def graphs(self) -> float:
        """Bytes left to graphs and to what products take on their way."""
        return self.budget - self.vectors * self.vector

    def vectors_beside(self, peak: float) -> int:
        """How many of them whoever multiplies may hold, when a product takes so much."""
        return max(LEAST, min(self.vectors, int((self.budget - peak) / self.vector))) - OWN

    def ample(self, peak: float) -> bool:
        """Whether there is no need to look closer at what takes so much, or less."""
        return peak <= min(self.chunk, self.graphs)

    @property
    def graphs_at_most(self) -> float:
        """The same where only the fewest vectors are made."""
        return self.budget - LEAST * self.vector


def require_room(memory: Memory) -> None:
    """Raise Unavailable where the fewest vectors alone take more than there is: known before anything is computed."""
    least = LEAST * memory.vector
    if least > memory.budget:
        raise Unavailable(
            f"{LEAST} vectors take {_gib(least)}, of which memory_gb allows {_gib(memory.budget)}; raise it in "
            "[passes.curvature], or select fewer parameters"
        )


def chunk_on(device: torch.device) -> int:
    """Bytes that products with one chunk should take there at most, where memory is plenty."""
    return CHUNK_CPU if device.type == "cpu" else CHUNK


def chunks_of(examples: int, batch: int, need: Need, memory: Memory) -> list[range]:
    """Examples in chunks of about equal size that are fast and fit; in whole batches of `batch` where it is not 0.

    Raises Unavailable, with the sum, where not even the smallest chunk fits.
    """
    smallest = min(batch or 1, examples)
    if need.peak(smallest) > memory.graphs_at_most:
        least = need.peak(smallest) + LEAST * memory.vector
        what = f"one batch of {batch}" if batch else "one example"
        raise Unavailable(
            f"products for {what} take {_gib(need.peak(smallest))} and {LEAST} vectors {_gib(LEAST * memory.vector)}, "
            f"{_gib(least)} in all, of which memory_gb allows {_gib(memory.budget)}; raise it in [passes.curvature], "
            "select fewer parameters, or give the probe shorter examples"
        )
    if batch:
        whole = max(1, examples // batch)  # what is left over would be normalised by fewer
        return [range(each * batch, min((each + 1) * batch, examples)) for each in range(whole)]
    fits = memory.graphs_at_most - need.most
    most = int(min(memory.chunk, fits) / need.most_each) if need.most_each else examples
    count = math.ceil(examples / max(1, min(most, examples)))
    size = math.ceil(examples / count)
    return [range(start, min(start + size, examples)) for start in range(0, examples, size)]


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.2f} GiB"
