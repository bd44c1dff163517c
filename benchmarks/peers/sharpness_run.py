"""The curvature pass and its solver over a subject: JSON on standard output.

Arguments: the subject's file, and "top" (five eigenvalues), "largest" (one), or "all" (with trace and density).
"""

import json
import sys

import torch
from curvature_subjects import Subject, timed

from sounding import Run
from sounding.curvature.eigenvalues import Wanted, largest_alone
from sounding.curvature.krylov import extremes, starting_vector
from sounding.curvature.probes import density, traces
from sounding.passes.curvature import curvature
from sounding.passes.model import Model
from sounding.passes.preconditioner import StoredOptimizer
from sounding.recipe import Probe, Recipe

LARGEST = largest_alone()
DEPTH = 32  # as the pass has it where nothing else is set


def measure(subject: Subject) -> dict[str, object]:
    unit = "token" if subject.targets.ndim > 1 else "example"
    probe = Probe(train=(subject.inputs, subject.targets), unit=unit)
    recipe = Recipe("the benchmark's", 1, {"probe": lambda run: probe})
    stored = StoredOptimizer(None, "none")
    curved = curvature(Model(subject.model, recipe, torch.device("cpu")), recipe, Run("", "", {}), stored)
    operator = curved.hessian()
    start = starting_vector(curved.gradient(), operator)
    found = extremes(operator, start, LARGEST if sys.argv[2] == "largest" else Wanted())
    kept: dict[str, object] = {
        "top": [each.value for each in found.top],
        "bound": [each.bound for each in found.top],
        "lambda_min": [each.value for each in found.bottom],
        "products": found.products,
    }
    if sys.argv[2] == "all":
        trace, spectrum = traces(operator, found).trace, density(operator, found, DEPTH)
        kept |= {"trace": trace.value, "trace_error": trace.stderr, "all_products": operator.products}
        kept |= {"nodes": spectrum.nodes.tolist(), "weights": spectrum.weights.tolist()}
    return kept


if __name__ == "__main__":
    print(json.dumps(timed(measure, sys.argv[1])))
