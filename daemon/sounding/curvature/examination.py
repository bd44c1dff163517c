"""What is found out on a few examples before the real work: which engine works, whether it is sound, what it needs."""

import re
from dataclasses import dataclass

import torch

from sounding.contract import Unavailable
from sounding.curvature.engines import FORWARD, GRAPHS, Engine, Matrix, add
from sounding.curvature.memory import Allocations, Need, need_of
from sounding.curvature.objective import Objective
from sounding.numbers import accumulating
from sounding.seeds import preserved

EXAMPLES = 8
_SYMMETRIC = 1e-4  # of the products' length: what rounding leaves of uᵀHv - vᵀHu is below
_SETTLED = 1e-5  # of the greatest loss: what a repeated forward pass may differ by, by summing in another order
_OPERATION = re.compile(r"(?:aten::|derivative for '?\"?|operator |function )'?\"?(?:aten::)?(\w+)")


@dataclass(frozen=True)
class Examined:
    """An engine that works, and the memory it takes."""

    engine: Engine
    need: Need


def examine(matrix: Matrix, objective: Objective, engines: tuple[Engine, ...]) -> Examined:
    """Try engines on a few examples, in order; return the first that works.

    Raises Unavailable, with the reason, for a network that gives other losses when it is asked again, losses or
    products that are not finite, a matrix that is not symmetric, and operations that no engine can differentiate.
    """
    most = min(EXAMPLES, len(objective.positions))
    least = max(1, most // 2) if objective.statistics == "eval" else most
    with preserved():
        _require_settled(objective, range(most))
        refusals: list[str] = []
        for engine in engines:
            try:
                vectors = _pair(objective)
                one = _tried(matrix, engine, objective, range(least), vectors[:1])
                two = _tried(matrix, engine, objective, range(most), vectors)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # of torch's own: what it cannot differentiate, it says so
                refusals.append(operation_in(error))
                continue
            return Examined(engine, need_of(one, two))
    raise Unavailable(f"the network cannot be differentiated twice: {'; '.join(dict.fromkeys(refusals))}")


def operation_in(error: RuntimeError) -> str:
    """The operation that an error of torch's complains of, with the beginning of what it says."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    found = _OPERATION.search(text)
    return f"{found[1]}: {text}" if found else text


def _require_settled(objective: Objective, chunk: range) -> None:
    """Raise Unavailable unless the losses are finite, and the same a second time."""
    with objective.prepared(), torch.no_grad():
        found = [objective.evaluate(chunk) for _ in range(2)]
    one, two = (torch.where(each.weights != 0, each.values, 0.0) for each in found)
    if not bool(torch.isfinite(one).all()):
        raise Unavailable("the loss is not finite at this checkpoint, so it has no curvature")
    if bool((one - two).abs().max() > _SETTLED * one.abs().max()):
        raise Unavailable(
            "the network gives other losses when it is asked again (a layer draws random numbers in evaluation mode), "
            "so its curvature is not defined"
        )


def _pair(objective: Objective) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn((2, objective.layout.size), generator=generator, dtype=torch.float32)
    return vectors.to(objective.device, objective.dtype)


def _tried(
    matrix: Matrix, engine: Engine, objective: Objective, chunk: range, vectors: torch.Tensor
) -> tuple[int, int, int]:
    """Multiply, the graph built anew for each vector; return examples, bytes kept and bytes at the most."""
    products, live, peak = [], 0, 0
    for vector in vectors:
        with Allocations() as allocations:
            product, kept = _product(matrix, engine, objective, chunk, vector, allocations)
        products.append(product)
        live, peak = max(live, kept), max(peak, allocations.peak)
    if not all(bool(torch.isfinite(each).all()) for each in products):
        raise Unavailable("second derivatives are not finite at this checkpoint, so the loss has no curvature there")
    if len(products) == 2:
        _require_symmetric(vectors, products)
    return len(chunk), live, peak


def _product(
    matrix: Matrix, engine: Engine, objective: Objective, chunk: range, vector: torch.Tensor, counted: Allocations
) -> tuple[torch.Tensor, int]:
    """The chunk's product, and the bytes that its graph keeps."""
    layout, places = objective.layout, range(len(objective.leaves))
    product, kept = torch.zeros_like(vector), 0
    if engine == "forward":
        tangents = [each[None] for each in layout.views(vector)]
        add(product, [each[0] for each in FORWARD[matrix](objective, chunk, tangents, places)], layout)
        return product, kept
    graph = GRAPHS[matrix](objective, chunk, places)
    kept = counted.live
    with objective.prepared():
        add(product, graph.product(list(layout.views(vector)), places), layout)
    return product, kept


def _require_symmetric(vectors: torch.Tensor, products: list[torch.Tensor]) -> None:
    exact = [each.to(accumulating(each.device)) for each in (*vectors, *products)]
    one, two, of_one, of_two = exact
    asymmetry = abs(float(one @ of_two - two @ of_one))
    if asymmetry > _SYMMETRIC * max(float(of_one.norm()), float(of_two.norm())):
        raise Unavailable(
            "products are not those of a symmetric matrix: the network draws random numbers, or one of its operations "
            "has a wrong derivative"
        )
