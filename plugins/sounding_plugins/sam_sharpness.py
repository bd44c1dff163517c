"""How far the loss rises near a checkpoint: at worst, in batches, and on average, plainly and scaled by the weights."""

import math
from collections.abc import Iterator, Sequence

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.curvature.conditions import CONDITIONS
from sounding.curvature.surroundings import Surroundings, ascent, average_rises, one_step
from sounding.estimates import mean_of
from sounding.passes import Around
from sounding.records import Quality

_SAM = "Foret et al. 2021, arXiv:2010.01412"
_ASAM = "Kwon et al. 2021, arXiv:2102.11600, T = diag|w| over all parameters, eta = 0, p = 2"
_ASAM_LINF = "Kwon et al. 2021, arXiv:2102.11600, T = diag|w| over all parameters, eta = 0, p = infinity"
_AVERAGE = "Andriushchenko et al. 2023, arXiv:2302.07011; each draw with its opposite"
_INVARIANT = "; invariant to rescalings of single units that leave the network as it is"
_WORST = "; a lower bound, found by full steps to the maximum of the linearised loss"


@plugin(
    version=4,
    cost="curvature",
    metrics=[
        Metric("one_step", "loss", "rise of the mean loss at rho·g/|g|", _SAM),
        Metric("worst_case", "loss", "largest rise of the mean loss found within |d| <= rho", _SAM + _WORST),
        Metric("adaptive_one_step", "loss", "rise of the mean loss at rho·T²g/|Tg|" + _INVARIANT, _ASAM),
        Metric("adaptive_one_step_linf", "loss", "rise of the mean loss at rho·|w|·sign(g)" + _INVARIANT, _ASAM_LINF),
        Metric("adaptive_worst_case", "loss", "largest rise found within |d/w| <= rho" + _INVARIANT, _ASAM + _WORST),
        Metric("m_sharpness", "loss", "mean over batches of m examples of the batch's own rise at rho·g/|g|",
               _SAM + ", section 4.1"),
        Metric("adaptive_m_sharpness", "loss", "mean over batches of m examples of the batch's own rise at rho·T²g/|Tg|"
               + _INVARIANT, _ASAM + "; over batches as " + _SAM),
        Metric("average_case", "loss", "mean rise at offsets N(0, sigma²)", _AVERAGE),
        Metric("adaptive_average_case", "loss", "mean rise at offsets N(0, sigma²w²)" + _INVARIANT, _AVERAGE),
        CONDITIONS,
    ],
)  # fmt: skip
def sam_sharpness(
    surroundings: Around,
    *,
    rho: float = 0.05,
    adaptive_rho: float = 0.5,
    linf_rho: float = 0.005,
    sigma: float = 0.005,
    adaptive_sigma: float = 0.05,
    m: int = 128,
    steps: int = 20,
    draws: int = 16,
    normalise_logits: bool = False,
    seed: int = 0,
) -> Iterator[Finding]:
    """Rises of the mean loss around the weights, in evaluation mode, on a fixed subset of the train split.

    `group` states the radius or deviation, the size of the batches, and whether logits were normalised.
    """
    around = surroundings.evaluated(normalised=normalise_logits)
    if not math.isfinite(around.here[0]):
        yield Skip(f"the mean loss is {around.here[0]} at this checkpoint, so it does not rise from there")
        return
    said = ", normalised logits" if normalise_logits else ""
    logits = "of normalised logits" if normalise_logits else ""
    averaged = f"averages over {draws} draws, each with its opposite, seed {seed}"
    yield Reading("conditions", label=surroundings.conditions(logits, averaged), split="train")
    for prefix, radius, deviation, scale in (
        ("", rho, sigma, None),
        ("adaptive_", adaptive_rho, adaptive_sigma, around.weights.abs()),
    ):
        worst = f"rho={radius:g}{said}"
        first, found = one_step(around, radius, scale), ascent(around, radius, scale, steps=steps)
        quality: Quality = "ok" if found.settled else "unconverged"
        yield Reading(f"{prefix}one_step", first.height, split="train", group=worst)
        yield Reading(f"{prefix}worst_case", found.height, split="train", group=worst, quality=quality)
        yield from _in_batches(around, f"{prefix}m_sharpness", m, radius, scale, said)
        rises = average_rises(around, deviation, scale, draws, seed)
        yield _mean(f"{prefix}average_case", rises, f"sigma={deviation:g}{said}")
    boxed = one_step(around, linf_rho, around.weights.abs(), norm="linf")
    yield Reading("adaptive_one_step_linf", boxed.height, split="train", group=f"rho={linf_rho:g}{said}")


def _in_batches(
    around: Surroundings, metric: str, m: int, radius: float, scale: torch.Tensor | None, said: str
) -> Iterator[Finding]:
    rises = [one_step(around, radius, scale, chunks).height for chunks in around.batches(m)]
    if rises:
        yield _mean(metric, rises, f"m={m}, rho={radius:g}{said}")
    else:
        yield Skip(f"{metric}: there are fewer than m = {m} examples")


def _mean(metric: str, values: Sequence[float], group: str) -> Reading:
    mean = mean_of(values)
    return Reading(metric, mean.value, split="train", group=group, stderr=mean.error)
