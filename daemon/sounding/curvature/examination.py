"""What is found out on a few examples before the real work: which engine works, whether it is sound, what it needs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch

from sounding.contract import Unavailable
from sounding.curvature.engines import FORWARD, Engine, Matrix, add, graph_of
from sounding.curvature.hessian import Slopes
from sounding.curvature.memory import Allocations, Memory, Need, need_of
from sounding.curvature.objective import Evaluated, Objective
from sounding.curvature.settling import SETTLED, settled
from sounding.numbers import accumulating
from sounding.seeds import preserved

_MOST = 8  # examples to begin with
_MORE = 64  # where these leave a doubt
_SHARE = 64  # one in so many: what is examined should cost little beside what is done
_SYMMETRIC = 1e-4  # of the products' length: what rounding leaves of uᵀHv - vᵀHu is below
_OPERATION = re.compile(r"(?:aten::|derivative for '?\"?|operator |function )'?\"?(?:aten::)?(\w+)")


Measured: TypeAlias = tuple[int, int, int]


class Asymmetric(Unavailable):
    """Products are not those of a symmetric matrix, though they come out alike each time: rounding may be why."""


@dataclass(frozen=True)
class Examined:
    """An engine that works, and the memory it takes."""

    engine: Engine
    need: Need


def examine(matrix: Matrix, objective: Objective, engines: Sequence[Engine], memory: Memory) -> Examined:
    """Try engines on a few examples, in order; return the first that works.

    Raises Unavailable, with the reason, for a network that gives other losses when it is asked again, losses or
    products that are not finite, and operations that no engine can differentiate; Asymmetric where products are that.
    """
    least, most = _sizes(objective)
    refusals: list[str] = []
    with preserved():
        losses = {range(least): _loss(objective, range(least))}
        for engine in engines:
            multiply = Trial(matrix, engine, objective, losses)
            try:
                measured = [multiply.symmetric(least)]
                whole = measured[0][2] * len(objective.positions) / least
                if most > least and not memory.ample(whole):
                    measured.append(multiply.measured(most, 0)[1])
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # torch says so of what it cannot differentiate
                refusals.append(operation_in(error))
                continue
            return Examined(engine, need_of(*measured))
    raise Unavailable(f"the network cannot be differentiated twice: {'; '.join(dict.fromkeys(refusals))}")


def examined_exactly(
    matrix: Matrix, objective: Callable[[torch.dtype], Objective], engines: Sequence[Engine], memory: Memory
) -> tuple[Objective, Examined, Memory]:
    """In float64 where in float32 nothing is left but rounding, as where a network has learnt all there is."""
    plain = objective(torch.float32)
    try:
        return plain, examine(matrix, plain, engines, memory), memory
    except Asymmetric as error:
        if plain.dtype == torch.float64 or plain.device.type == "mps":
            raise
        exact, wider = objective(torch.float64), replace(memory, vector=2 * memory.vector)
        try:
            return exact, examine(matrix, exact, engines, wider), wider
        except RuntimeError:  # the network itself is written for float32
            raise error from None


def _sizes(objective: Objective) -> tuple[int, int]:
    """Two numbers of examples to measure with; by its batch BatchNorm cannot normalise a single one."""
    count, fewest = len(objective.positions), 1 if objective.statistics == "eval" else 2
    most = min(count, max(2 * fewest, min(_MOST, count // _SHARE)))
    return max(min(fewest, most), most // 2), most


def operation_in(error: RuntimeError) -> str:
    """The operation that an error of torch's complains of, with the beginning of what it says."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    found = _OPERATION.search(text)
    return f"{found[1]}: {text}" if found else text


def _loss(objective: Objective, chunk: range) -> float:
    """The summed loss. Raises Unavailable unless the losses are finite, and the same a second time."""
    with objective.prepared():
        found = settled(partial(objective.evaluate, chunk), Evaluated.counting)
    if not bool(torch.isfinite(found.counting()).all()):
        raise Unavailable("the loss is not finite at this checkpoint, so it has no curvature")
    return found.loss


class Trial:
    """Products on a few examples by one engine, the graph built anew for each; `losses` are sums that it must meet."""

    def __init__(self, matrix: Matrix, engine: Engine, objective: Objective, losses: Mapping[range, float]) -> None:
        self._losses = losses
        self._matrix: Matrix = matrix
        self._engine: Engine = engine
        self._objective = objective
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn((2, objective.layout.size), generator=generator, dtype=torch.float32)
        self._kept = 0
        self._vectors = vectors.to(objective.device, objective.dtype)

    def symmetric(self, examples: int) -> Measured:
        """Measured(examples, bytes kept, bytes at most) on so many examples.

        Raises Unavailable unless uᵀHv = vᵀHu for two random vectors, on these examples or, as where the loss is
        almost 0 nothing is left of its curvature but rounding, on more of them.
        """
        more = max(examples, min(_MORE, len(self._objective.positions)))
        one, measured = self.measured(examples, 0)
        if self._asymmetry(one, self.product(examples, 1)) > _SYMMETRIC:
            one = self.product(more, 0)
            asymmetry = self._asymmetry(one, self.product(more, 1))
            if asymmetry > _SYMMETRIC:
                raise self._why_asymmetric(asymmetry, one, self.product(more, 0))
        return measured

    def measured(self, examples: int, number: int) -> tuple[torch.Tensor, Measured]:
        """A product, with examples, bytes kept and bytes at the most."""
        with Allocations() as allocations:
            product = self.product(examples, number, allocations)
        return product, (examples, self._kept, allocations.peak)

    def product(self, examples: int, number: int, counted: Allocations | None = None) -> torch.Tensor:
        """Product with one of the two vectors. Raises Unavailable unless it is finite."""
        product = torch.zeros_like(self._vectors[number])
        add(product, self._multiplied(range(examples), self._vectors[number], counted), self._objective.layout)
        if not bool(torch.isfinite(product).all()):
            raise Unavailable("second derivatives are not finite at this checkpoint, so the loss has no curvature")
        return product

    def _multiplied(self, chunk: range, vector: torch.Tensor, counted: Allocations | None) -> Slopes:
        objective = self._objective
        parts, places = list(objective.layout.views(vector)), range(len(objective.leaves))
        if self._engine == "forward":
            return [each[0] for each in FORWARD[self._matrix](objective, chunk, [part[None] for part in parts], places)]
        graph = graph_of(self._matrix, self._engine, objective, chunk, places)
        self._kept = counted.live if counted is not None else 0
        loss = self._losses.get(chunk, graph.loss)
        if abs(graph.loss - loss) > SETTLED * abs(loss):
            raise RuntimeError(f"layers written anew give a loss of {graph.loss}, not {loss}")
        with objective.prepared():
            return graph.product(parts, places)

    def _asymmetry(self, *products: torch.Tensor) -> float:
        """|uᵀHv - vᵀHu| over the length of Hu or Hv, which is what uᵀHv is like."""
        exact = accumulating(self._objective.device)
        one, two = (each.to(exact) for each in self._vectors)
        of_one, of_two = (each.to(exact) for each in products)
        length = max(float(of_one.norm()), float(of_two.norm()))
        return abs(float(one @ of_two - two @ of_one)) / length if length else 0.0

    def _why_asymmetric(self, asymmetry: float, product: torch.Tensor, again: torch.Tensor) -> Unavailable:
        if float((product - again).norm()) > _SYMMETRIC * float(product.norm()):
            return Unavailable("a product comes out otherwise when repeated: a layer draws random numbers as it likes")
        return Asymmetric(
            f"products are not those of a symmetric matrix (by {asymmetry:.1e}): an operation has a wrong derivative, "
            "or the loss is so small that rounding is all there is of its curvature"
        )
