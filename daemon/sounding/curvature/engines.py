"""The ways to multiply, and how a matrix of the mean loss is summed from chunks of examples.

A chunk's graph is kept where memory allows, which makes a product one backward pass; the other chunks' graphs are built
anew for each product. Layers are rewritten to be differentiated twice at less cost; where that fails, they are torch's
own, and where these do, forward over reverse is tried. What fails in each is refused.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol, TypeAlias

import torch

from sounding.curvature.ggn import JacobianGraph, jacobian_forward
from sounding.curvature.hessian import HessianGraph, Slopes, first_order, hessian_forward
from sounding.curvature.memory import CHUNK, Need
from sounding.curvature.objective import Objective
from sounding.curvature.operator import Layout
from sounding.errors import SoundingError

Matrix: TypeAlias = Literal["hessian", "ggn", "fisher"]
Engine: TypeAlias = Literal["rewritten", "reverse", "forward"]  # over reverse; by layers rewritten, or torch's own
Way: TypeAlias = Literal["auto", "reverse", "forward"]
Places: TypeAlias = Sequence[int]  # of parameters among the objective's


class Graph(Protocol):
    """What is kept of a chunk."""

    weight: float
    loss: float

    def product(self, tangents: Sequence[torch.Tensor], places: Places) -> Slopes:
        """The chunk's summed matrix times a vector, given and returned by parameter."""
        ...


class _Grapher(Protocol):
    def __call__(self, objective: Objective, chunk: range, places: Places, *, rewritten: bool) -> Graph: ...


_GRAPHS: dict[Matrix, _Grapher] = {
    "hessian": HessianGraph,
    "ggn": partial(JacobianGraph, "outputs"),
    "fisher": partial(JacobianGraph, "losses"),
}
FORWARD: dict[Matrix, Callable[[Objective, range, Sequence[torch.Tensor], Places], Sequence[torch.Tensor]]] = {
    "hessian": hessian_forward,
    "ggn": partial(jacobian_forward, "outputs"),
    "fisher": partial(jacobian_forward, "losses"),
}


WAYS: dict[Way, tuple[Engine, ...]] = {
    "auto": ("rewritten", "reverse", "forward"),
    "reverse": ("rewritten", "reverse"),
    "forward": ("forward",),
}


def graph_of(matrix: Matrix, engine: Engine, objective: Objective, chunk: range, places: Places) -> Graph:
    """The graph of a chunk by an engine that makes one."""
    return _GRAPHS[matrix](objective, chunk, places, rewritten=engine == "rewritten")


class Shelf:
    """Memory that the graphs of several matrices share."""

    def __init__(self, size: float) -> None:
        self.size = size
        self._sums: list[Sum] = []

    def room_for(self, newcomer: "Sum", wanted: float) -> float:
        """Bytes that a matrix may keep; others give up graphs until it has what it wants, or half of everything."""
        if newcomer not in self._sums:
            self._sums.append(newcomer)
        others = [each for each in self._sums if each is not newcomer]
        while self._free(others) < min(wanted, self.size / 2) and any(each.release() for each in others):
            pass
        return self._free(others)

    def _free(self, others: Sequence["Sum"]) -> float:
        return self.size - sum(each.held for each in others)


class Sum:
    """A matrix of the mean loss: chunks' products added up and divided by the sum of weights.

    Making one goes through all examples once; `loss` is the mean loss, `gradient` its flat gradient (of a Hessian).
    """

    def __init__(
        self, matrix: Matrix, engine: Engine, objective: Objective, chunks: Sequence[range], need: Need, shelf: Shelf
    ) -> None:
        self._matrix: Matrix = matrix
        self._objective = objective
        self.chunks = chunks
        self._need = need
        self.engine: Engine = engine
        self._kept: dict[int, Graph] = {}
        self._all = range(len(objective.leaves))
        self.gradient: torch.Tensor | None = None
        self.loss, self.weight = self._first_pass(0 if engine == "forward" else self._keeping(shelf))

    @property
    def held(self) -> float:
        """Bytes of the graphs that are kept, as told beforehand."""
        return sum(self._need.graph(len(self.chunks[number])) for number in self._kept)

    @property
    def peak(self) -> float:
        """Bytes while a product with one chunk is computed, as told beforehand."""
        return self._need.peak(len(self.chunks[0]))

    @property
    def way(self) -> str:
        """In words how products are computed."""
        if self.engine == "forward":
            return "forward over reverse"
        kept = len(self._kept)
        if kept == len(self.chunks):
            return "reverse over reverse, graph kept"
        return f"reverse over reverse, graphs of {kept} of {len(self.chunks)} chunks kept"

    def release(self) -> bool:
        """Give up one graph; false when there is none."""
        return bool(self._kept) and self._kept.popitem() is not None

    def multiply(self, vectors: torch.Tensor, places: Places) -> torch.Tensor:
        """Products with the rows of `vectors`, which hold the parameters at `places` one after the other."""
        layout = self._objective.layout.at(places)
        products = torch.zeros_like(vectors)
        for number, chunk in enumerate(self.chunks):
            if self.engine == "forward":
                self._add_forward(products, vectors, chunk, places)
                continue
            graph = self._kept.get(number) or self._graph(chunk, places)
            with self._objective.prepared():
                for row, product in zip(vectors, products, strict=True):
                    add(product, graph.product(list(layout.views(row)), places), layout)
            del graph  # before the next one is built: two that are not kept were never told of
        return products.div_(self.weight)

    def _add_forward(self, products: torch.Tensor, vectors: torch.Tensor, chunk: range, places: Places) -> None:
        layout, together = self._objective.layout.at(places), max(1, int(CHUNK / self._need.peak(len(chunk))))
        for start in range(0, len(vectors), together):
            rows = slice(start, start + together)
            tangents = [torch.stack(each) for each in zip(*map(layout.views, vectors[rows]), strict=True)]
            found = FORWARD[self._matrix](self._objective, chunk, tangents, places)
            for number, product in enumerate(products[rows]):
                add(product, [each[number] for each in found], layout)

    def _graph(self, chunk: range, places: Places) -> Graph:
        return graph_of(self._matrix, self.engine, self._objective, chunk, places)

    def _keeping(self, shelf: Shelf) -> int:
        """How many chunks' graphs may be kept."""
        size = len(self.chunks[0])
        graph, peak = self._need.graph(size), self._need.peak(size)
        all_of_them = graph * (len(self.chunks) - 1) + peak
        room = shelf.room_for(self, all_of_them)
        if all_of_them <= room or not graph:
            return len(self.chunks)
        return max(0, int((room - peak) / graph))  # beside one that is built anew, which the peak has in it

    def _first_pass(self, keep: int) -> tuple[float, float]:
        objective, loss, weight = self._objective, 0.0, 0.0
        if self._matrix == "hessian":
            self.gradient = torch.zeros(objective.layout.size, dtype=objective.dtype, device=objective.device)
        for number, chunk in enumerate(self.chunks):
            if number < keep:
                graph = self._kept[number] = self._graph(chunk, self._all)
                more, heavier, slopes = graph.loss, graph.weight, getattr(graph, "slopes", None)
            else:
                more, heavier, slopes = first_order(objective, chunk, slopes=self.gradient is not None)
            loss, weight = loss + more, weight + heavier
            if self.gradient is not None and slopes is not None:
                add(self.gradient, slopes, objective.layout)
        if weight == 0:
            raise SoundingError("every loss weight in the subset of the probe is zero, so there is no mean loss.")
        if self.gradient is not None:
            self.gradient /= weight
        return loss / weight, weight


def add(flat: torch.Tensor, tensors: Slopes, layout: Layout) -> None:
    """Add tensors, of which None stands for zero, to the parts of a flat vector."""
    for view, each in zip(layout.views(flat), tensors, strict=True):
        if each is not None:
            view += each.detach()
