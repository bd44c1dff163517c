"""How far the weights moved since the preceding checkpoint, and how far they turned."""

import math
from collections.abc import Iterator

from sounding import Checkpoint, Finding, Metric, Reading, Skip, plugin
from sounding.passes import Moments, Other, Pair, angle_of, updates_between
from sounding.records import Quality

_RESOLUTION = "stored precision's rounding floor, eps/sqrt(32 ln 2) per checkpoint: below it the status is unresolved"


@plugin(
    version=2,
    over="pair",
    against="previous",
    metrics=[
        Metric("relative_change", unit="1", meaning="norm of the change over the norm before", source="definition"),
        Metric(
            "rotation",
            unit="rad",
            meaning="angle between the tensor before and after, taken as vectors",
            source="2 asin(sqrt((|d|² - (change of norm)²) / (|x||y|)) / 2), accurate for small angles; " + _RESOLUTION,
        ),
        Metric(
            "rotation_per_update",
            unit="rad",
            meaning="angle of one update if all updates between turn alike and independently of each other",
            source="acos(cos(rotation)^(1/k)), k updates; directions forget exponentially, so no sqrt(k) law",
        ),
        Metric("absolute_change", unit="weight", meaning="norm of the change", source="definition"),
        Metric("norm_change", unit="weight", meaning="norm after minus norm before", source="d.(x+y) / (|x| + |y|)"),
    ],
)
def weight_change(pair: Pair, checkpoint: Checkpoint, other: Other) -> Iterator[Finding]:
    """Change of every parameter and of the whole network since the preceding checkpoint of the run."""
    updates = updates_between(other.checkpoint, checkpoint)
    for name, reason in pair.unmatched.items():
        yield Skip(reason, part=name)
    for name, moments in pair.moments.items():
        yield from _readings(moments, name, updates)
    if pair.moments:
        yield from _readings(pair.total, "", updates)


def _readings(moments: Moments, part: str, updates: int | None) -> Iterator[Finding]:
    quality: Quality = "unresolved" if moments.change < moments.floor else "ok"
    yield Reading("absolute_change", math.sqrt(moments.change), part=part, quality=quality)
    yield Reading("norm_change", moments.norm_change, part=part, quality=quality)
    if moments.before == 0.0:
        yield Skip("all zero in the preceding checkpoint, so its relative change and rotation are undefined", part=part)
        return
    yield Reading("relative_change", math.sqrt(moments.change / moments.before), part=part, quality=quality)
    if moments.after == 0.0:
        yield Skip("all zero now, so its rotation is undefined", part=part)
        return
    # Growth does not turn a tensor: rounding must be compared with the change's sideways share alone.
    turned: Quality = "ok" if moments.resolved else "unresolved"
    yield Reading("rotation", moments.angle, part=part, quality=turned)
    # Beyond that cosine it is one that independent directions of this many elements have by chance.
    if updates is not None and moments.cosine_loss < 1.0 - 4.0 / math.sqrt(moments.count):
        loss = -math.expm1(math.log1p(-moments.cosine_loss) / updates)
        yield Reading("rotation_per_update", angle_of(loss), part=part, quality=turned)
