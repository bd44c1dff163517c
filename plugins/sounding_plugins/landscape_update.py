"""The loss along the direction of the latest training: from the preceding checkpoint through this one and beyond."""

from collections.abc import Iterator

import numpy as np

from sounding import Curve, Finding, Metric, Reading, Skip, plugin
from sounding.curvature.conditions import CONDITIONS
from sounding.passes import Elsewhere, Other, mixed
from sounding.passes.elsewhere import Statistics
from sounding.passes.linear_path import require_alike


@plugin(
    version=2,
    over="pair",
    against="previous",
    cost="data",
    metrics=[
        Metric("loss", "loss", "mean loss at w + s (w - w0), w0 the preceding checkpoint's weights, by s",
               "definition; BatchNorm's statistics gathered anew at every point, unless statistics is \"stored\"",
               kind="curve"),
        Metric("best_step", "1", "the s at which the loss of a split is lowest; above 0, training had not gone far "
               "enough along this direction", "Goodfellow et al. 2015, arXiv:1412.6544, for lines of training"),
        CONDITIONS,
    ],
)  # fmt: skip
def landscape_update(
    elsewhere: Elsewhere,
    other: Other,
    *,
    reach: float = 1.0,
    points: int = 13,
    statistics: Statistics = "reestimated",
) -> Iterator[Finding]:
    """The loss of every split on the line of the last change, from `reach` changes back to `reach` changes ahead."""
    before: Elsewhere = other.elsewhere
    require_alike(elsewhere.parameters, before.parameters)
    if all(bool((before.parameters[name] == each).all()) for name, each in elsewhere.parameters.items()):
        yield Skip("the weights are those of the preceding checkpoint: there is no direction")
        return
    grid: list[float] = np.linspace(-reach, reach, max(3, points | 1)).tolist()
    found = [
        elsewhere.at(mixed(before.parameters, elsewhere.parameters, 1.0 + step), statistics=statistics) for step in grid
    ]
    for split in found[0]:
        yield Reading("conditions", label=elsewhere.conditions(split, statistics), split=split)
        heights = [each[split].mean_loss().value for each in found]
        yield Curve("loss", tuple(grid), tuple(heights), split=split)
        if np.isfinite(heights).all():
            yield Reading("best_step", grid[int(np.argmin(heights))], split=split)
