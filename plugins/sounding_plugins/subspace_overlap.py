"""How much of the Hessian's top eigenvectors is left of the preceding checkpoint's."""

from collections.abc import Iterator

from sounding import Finding, Metric, Reading, Skip, Unavailable, plugin
from sounding.curvature.conditions import CONDITIONS, conditions_of
from sounding.passes import CurvatureRun, Other
from sounding.records import Quality

_SOURCE = "Gur-Ari, Roberts and Dyer 2018, eq. 5"


@plugin(
    version=2,
    over="pair",
    against="previous",
    cost="curvature",
    metrics=[
        Metric("overlap", "1", "mean squared cosine of the principal angles between both spans: 1 where they are equal",
               _SOURCE),
        Metric("chance", "1", "what random spans of that size have", "definition: vectors over parameters"),
        Metric("top_cosine", "1", "|cosine| between the first eigenvectors", "definition"),
        CONDITIONS,
    ],
)  # fmt: skip
def subspace_overlap(curvature_run: CurvatureRun, other: Other) -> Iterator[Finding]:
    """Overlap of the spans of the Hessian's top eigenvectors at this checkpoint and the preceding one."""
    before: CurvatureRun = other.curvature_run
    try:
        now, then = curvature_run.directions(), before.directions()
    except Unavailable as reason:
        yield Skip(str(reason))
        return
    if now is None or then is None:
        yield Skip("a product with the Hessian is NaN or infinite")
        return
    if now.parameters != then.parameters or now.vectors.shape != then.vectors.shape:
        yield Skip("the parameters are not those of the preceding checkpoint")
        return
    yield Reading("conditions", label=conditions_of(curvature_run.curvature.hessian().facts), split="train")
    cosines = now.vectors @ then.vectors.T
    quality: Quality = "ok" if now.converged and then.converged else "unconverged"
    count, size = now.vectors.shape
    yield Reading("overlap", float(cosines.double().square().sum()) / count, split="train", quality=quality)
    yield Reading("chance", count / size)
    yield Reading("top_cosine", abs(float(cosines[0, 0])), split="train", quality=quality)
