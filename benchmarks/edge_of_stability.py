"""Full-batch gradient descent on digits, whose largest Hessian eigenvalue rises to 2/η and stays there.

Readings are those of the plugin `sharpness` in its cheap mode, at checkpoints along three runs. Besides, what the
eigenvalue costs from the gradient as a start, and from the eigenvector of the checkpoint before.

python benchmarks/edge_of_stability.py [--keep]
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from record import record
from sklearn.datasets import load_digits
from torch import nn

from sounding import Run
from sounding.curvature.eigenvalues import largest_alone
from sounding.curvature.krylov import extremes, starting_vector, warm_start
from sounding.passes.curvature import Curvature, curvature
from sounding.passes.model import Model
from sounding.passes.preconditioner import StoredOptimizer
from sounding.recipe import Probe, Recipe

RATES = (0.05, 0.1, 0.2)
LARGEST = largest_alone()


@dataclass(frozen=True)
class Reading:
    """λ_max at a step, how many products it took from either start, and the loss."""

    step: int
    loss: float
    lambda_max: float
    cold: int
    warm: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = {}
    for rate in RATES:
        readings = list(trained(rate, options.steps, options.every))
        runs[f"{rate:g}"] = {name: [getattr(each, name) for each in readings] for name in Reading.__annotations__}
        told(rate, readings)
    if options.keep:
        record("edge_of_stability", {"network": "tanh 64-64-64-10, squared error", "examples": 1000, "runs": runs})


def trained(rate: float, steps: int, every: int) -> Iterator[Reading]:
    """Readings every few steps of one run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    inputs, targets = examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    last = None
    for step in range(steps + 1):
        if step % every == 0:
            curved = curvature_of(model, inputs, targets)
            operator, gradient = curved.hessian(), curved.gradient()
            cold = extremes(operator, starting_vector(gradient, operator), LARGEST)
            warm = cold if last is None else extremes(operator, warm_start(last, gradient, operator), LARGEST)
            last = cold.vectors(1)[0]
            yield Reading(step, curved.loss(), cold.top[0].value, cold.products, warm.products)
        optimizer.zero_grad()
        squared(model(inputs), targets, inputs).mean().backward()
        optimizer.step()


def curvature_of(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Curvature:
    recipe = Recipe("here", 1, {"probe": lambda run: Probe(train=(inputs, targets)), "loss": squared})
    given = Model(model, recipe, torch.device("cpu"))
    return curvature(given, recipe, Run("", "", {}), StoredOptimizer(None, "not stored"))


def squared(outputs: torch.Tensor, targets: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Half the squared distance from the label's unit vector."""
    return 0.5 * (outputs - nn.functional.one_hot(targets, 10)).square().sum(1)


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    inputs = torch.tensor(digits.data[:1000], dtype=torch.float32) / 8 - 1
    return inputs, torch.tensor(digits.target[:1000])


def told(rate: float, readings: list[Reading]) -> None:
    later = [each.lambda_max * rate / 2 for each in readings[len(readings) // 2 :]]
    cold, warm = (statistics.median(getattr(each, name) for each in readings) for name in ("cold", "warm"))
    print(
        f"rate {rate:<5g} lambda_max / (2/rate): first {readings[0].lambda_max * rate / 2:.2f}, second half "
        f"{min(later):.2f} to {max(later):.2f}, median {statistics.median(later):.2f}; loss {readings[-1].loss:.4f}; "
        f"products, median: {cold:g} from the gradient, {warm:g} from the eigenvector before"
    )


if __name__ == "__main__":
    main()
