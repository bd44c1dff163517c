"""The path of the weights over a run: how far, how straight, in how many dimensions."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sounding import Curve, Finding, Metric, Reading, Skip, plugin
from sounding.passes import Checkpoints
from sounding.sketch import sketch

_FEWEST = 4  # checkpoints; three always lie in a plane


@plugin(
    version=1,
    over="run",
    metrics=[
        Metric("participation_ratio", "1", "dimension of the path: squared sum over sum of squares of its principal "
               "components' variances; 2.5 for a random walk", "Antognini and Sohl-Dickstein 2018, for the null"),
        Metric("explained_1", "fraction", "share of the first principal component; 0.61 for a random walk",
               "Antognini and Sohl-Dickstein 2018, for the null"),
        Metric("explained_2", "fraction", "share of the first two; 0.76 for a random walk",
               "Antognini and Sohl-Dickstein 2018, for the null"),
        Metric("path_length", "weight", "sum of the distances between successive checkpoints", "definition"),
        Metric("displacement", "weight", "distance between the first and the last checkpoint", "definition"),
        Metric("straightness", "1", "displacement over path_length, 1 for a straight line", "definition"),
        Metric("checkpoints", "count", "checkpoints on the path", "definition"),
        Metric("update_cosine", "1", "cosine between the changes to a checkpoint and from it, by step", "definition",
               kind="curve"),
        Metric("distance_from_first", "weight", "distance from the first checkpoint, by step", "definition",
               kind="curve"),
    ],
)  # fmt: skip
def trajectory(checkpoints: Checkpoints, *, length: int = 8192, most: int = 256, seed: int = 0) -> Iterator[Finding]:
    """The path of all parameters from checkpoint to checkpoint, from sketches of them of this `length`.

    Of more than `most` checkpoints, evenly spread ones are taken. Distances have a relative standard error of
    1/sqrt(2·length), cosines one of 1/sqrt(length), both stated. A parameter of another shape ends the path.
    """
    if len(checkpoints) < _FEWEST:
        yield Skip(f"{len(checkpoints)} checkpoints; a path needs {_FEWEST}")
        return
    wanted = set(np.linspace(0, len(checkpoints) - 1, min(most, len(checkpoints))).round().astype(int).tolist())
    steps: list[int] = []
    points: list[NDArray[np.float64]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for place, stop in enumerate(checkpoints):
        if place not in wanted:
            continue
        parameters = stop.weights.parameters()
        found = {name: stop.weights.shape(name) for name in parameters}
        if shapes and found != shapes:
            yield Skip(f"at step {stop.checkpoint.step} the parameters have other names or shapes: the path ends there")
            break
        shapes = found
        steps.append(stop.checkpoint.step)
        points.append(sketch(parameters.items(), length, seed))
    if len(points) < _FEWEST:
        yield Skip(f"{len(points)} checkpoints have the same parameters; a path needs {_FEWEST}")
        return
    path = np.stack(points)
    if not np.isfinite(path).all():
        yield Skip("some weights are NaN or infinite")
        return
    yield from _told(np.array(steps, dtype=np.float64), path, length)


def _told(steps: NDArray[np.float64], path: NDArray[np.float64], length: int) -> Iterator[Finding]:
    yield Reading("checkpoints", len(path))
    moves = np.diff(path, axis=0)
    norms = np.linalg.norm(moves, axis=1)
    walked, distances = float(norms.sum()), np.linalg.norm(path - path[0], axis=1)
    error = 1 / math.sqrt(2 * length)
    displacement = float(distances[-1])
    yield Reading("path_length", walked, stderr=walked * error)
    yield Reading("displacement", displacement, stderr=displacement * error)
    yield Curve("distance_from_first", tuple(steps.tolist()), tuple(distances.tolist()))
    if walked == 0.0:
        yield Skip("no weight ever moved")
        return
    straightness = displacement / walked
    yield Reading("straightness", straightness, stderr=straightness * error * math.sqrt(2))
    yield _cosines(steps, moves, norms)
    yield from _dimensions(path)


def _cosines(steps: NDArray[np.float64], moves: NDArray[np.float64], norms: NDArray[np.float64]) -> Curve:
    """Only where the weights moved before and after."""
    moved = (norms[:-1] > 0) & (norms[1:] > 0)
    products = (moves[:-1] * moves[1:]).sum(axis=1)[moved]
    cosines = products / (norms[:-1] * norms[1:])[moved]
    return Curve("update_cosine", tuple(steps[1:-1][moved].tolist()), tuple(cosines.tolist()))


def _dimensions(path: NDArray[np.float64]) -> Iterator[Finding]:
    variances = np.linalg.svd(path - path.mean(axis=0), compute_uv=False) ** 2
    yield Reading("participation_ratio", float(variances.sum() ** 2 / (variances**2).sum()))
    yield Reading("explained_1", float(variances[0] / variances.sum()))
    yield Reading("explained_2", float(variances[:2].sum() / variances.sum()))
