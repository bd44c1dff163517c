"""The whole spectrum of the loss's curvature as a density, and two criteria that are read off it."""

from collections.abc import Iterator

from sounding import Curve, Finding, Metric, Reading, Skip, Unavailable, plugin
from sounding.curvature.conditions import CONDITIONS, conditions_of
from sounding.curvature.probes import criteria
from sounding.passes import CurvatureRun, Kind
from sounding.records import Quality

_SLQ = "stochastic Lanczos quadrature, Ubaru, Chen and Saad 2017; Ghorbani, Krishnan and Xiao 2019"
_LLA = "loss landscape analysis of Gabdullin 2024; compare at equal depth only"


@plugin(
    version=2,
    cost="curvature",
    metrics=[
        Metric("density", "1", "share of all eigenvalues by the node that it lies at; depth: Lanczos steps",
               _SLQ + "; simple eigenvalues that are known have their exact share", kind="curve"),
        Metric("re", "1", "|smallest node / largest node| of the quadrature; depth: Lanczos steps", _LLA),
        Metric("kh", "1", "sum of |node x weight|^n below 0 over that above, n = 0.5; depth: Lanczos steps", _LLA),
        CONDITIONS,
    ],
)  # fmt: skip
def spectral_density(
    curvature_run: CurvatureRun, *, kinds: tuple[Kind, ...] = ("hessian",), power: float = 0.5
) -> Iterator[Finding]:
    """Nodes and weights of the spectral density, to be smoothed where they are shown, and the criteria `re` and `kh`.

    `power` is the n of `kh`.
    """
    for kind in kinds:
        try:
            yield from _of(curvature_run, kind, power)
        except Unavailable as reason:
            yield Skip(str(reason))
            return


def _of(run: CurvatureRun, kind: Kind, power: float) -> Iterator[Finding]:
    solved = run.of(kind)
    if not solved.found.top:
        yield Skip(f"{kind}: a product with it is NaN or infinite")
        return
    operator = run.curvature.ggn() if kind == "ggn" else run.curvature.hessian()
    yield Reading("conditions", label=conditions_of(operator.facts), split="train", kind=kind)
    found = solved.density
    depth, nodes, weights = found.depth, found.nodes.tolist(), found.weights.tolist()
    yield Curve("density", tuple(nodes), tuple(weights), split="train", kind=kind, depth=depth)
    told = criteria(found, power)
    quality: Quality = "unresolved" if told.mostly_negative else "ok"
    if told.mostly_negative:
        yield Skip(f"{kind}: most of the curvature is negative, where `re` and `kh` mean nothing: they are unresolved")
    if told.re is not None:
        yield Reading("re", told.re, split="train", kind=kind, depth=depth, quality=quality)
    if told.kh is not None:
        yield Reading("kh", told.kh, split="train", kind=kind, depth=depth, quality=quality)
