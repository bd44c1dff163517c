"""How many directions of a layer's weights change nothing: what its inputs and gradients leave unused."""

from collections.abc import Iterator

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import LayerGram, LayerGrams
from sounding.records import Quality

_BUSHNAQ = "Bushnaq et al. 2024, arXiv:2405.10927"
_RANK = "; eigenvalues above tolerance times the largest"


@plugin(
    version=1,
    cost="gradient",
    metrics=[
        Metric("activation_rank", "count", "rank of the second moment of a layer's inputs with a 1 for the bias",
               _BUSHNAQ + _RANK),
        Metric("activation_deficiency", "count", "inputs (with the bias) less activation_rank", _BUSHNAQ + _RANK),
        Metric("gradient_rank", "count", "rank of the second moment of the loss's gradients at a layer's outputs",
               _BUSHNAQ + _RANK),
        Metric("gradient_deficiency", "count", "outputs less gradient_rank", _BUSHNAQ + _RANK),
        Metric("free_fraction", "fraction", "share of directions of the weight (with bias) along which the loss of no "
               "example has a slope that both ranks allow: 1 - product of the ranks over product of the widths",
               _BUSHNAQ),
        Metric("interaction_rank", "count", "rank of D½Uᵀ E[JᵀJ] U D½: directions of the inputs that occur and that "
               "the outputs feel", "interaction basis, Bushnaq et al. 2024, arXiv:2405.10928, to the outputs" + _RANK),
        Metric("synchronous_units", "count", "inputs behind a ReLU that fire for exactly the examples another one does",
               _BUSHNAQ),
        Metric("silent_units", "count", "inputs behind a ReLU that never fire", "definition"),
        Metric("rows", "count", "examples, or examples and positions, that entered", "definition"),
    ],
)  # fmt: skip
def degeneracy(layer_grams: LayerGrams, *, tolerance: float = 1e-9) -> Iterator[Finding]:
    """Ranks of what enters and comes back to every linear layer, and ReLUs that fire together.

    A rank is that of the sample: where the rows are no more than the width it is unresolved, as more might add to it.
    """
    for name, layer in layer_grams.layers.items():
        if not all(bool(each.isfinite().all()) for each in (layer.inputs, layer.gradients, layer.jacobian)):
            yield Skip("NaN or infinity among activations or gradients", part=name)
            continue
        yield Reading("rows", layer.rows, part=name, split="train")
        yield from _ranks(layer, name, tolerance)
        yield from _units(layer, name)


def _ranks(layer: LayerGram, part: str, tolerance: float) -> Iterator[Finding]:
    inputs, outputs = len(layer.inputs), len(layer.gradients)
    ranks = {"activation": rank_of(layer.inputs, tolerance), "gradient": rank_of(layer.gradients, tolerance)}
    for what, width in (("activation", inputs), ("gradient", outputs)):
        quality: Quality = "ok" if layer.rows > width or ranks[what] < layer.rows else "unresolved"
        yield Reading(f"{what}_rank", ranks[what], part=part, split="train", quality=quality)
        yield Reading(f"{what}_deficiency", width - ranks[what], part=part, split="train", quality=quality)
    free = 1.0 - ranks["activation"] * ranks["gradient"] / (inputs * outputs)
    yield Reading("free_fraction", free, part=part, split="train")
    interaction = rank_of(interaction_of(layer), tolerance)
    resolved: Quality = "ok" if layer.rows > inputs or interaction < layer.rows else "unresolved"
    yield Reading("interaction_rank", interaction, part=part, split="train", quality=resolved)


def _units(layer: LayerGram, part: str) -> Iterator[Finding]:
    if not layer.rectified:
        yield Skip("synchronous_units: its inputs are not those of a ReLU", part=part)
        return
    fired = layer.fired > 0
    constant = layer.fired == layer.rows
    patterns = layer.pattern[fired & ~constant]
    together = len(patterns) - len(torch.unique(patterns, dim=0)) if len(patterns) else 0
    yield Reading("synchronous_units", together, part=part, split="train")
    yield Reading("silent_units", int((~fired).sum()), part=part, split="train")


def rank_of(gram: torch.Tensor, tolerance: float) -> int:
    """Eigenvalues of a Gram matrix above `tolerance` times the largest; 0 of zeros."""
    values = torch.linalg.eigvalsh(gram)
    return int((values > tolerance * values[-1]).sum()) if values[-1] > 0.0 else 0


def interaction_of(layer: LayerGram) -> torch.Tensor:
    """D½Uᵀ WᵀJW U D½ with the inputs' second moment UDUᵀ, without the bias: it moves no input's way."""
    values, vectors = torch.linalg.eigh(layer.inputs[:-1, :-1])
    root = vectors * values.clamp_min(0.0).sqrt()
    felt: torch.Tensor = layer.weight @ root
    return felt.T @ layer.jacobian @ felt
