"""How many dimensions features fill, layer by layer and along a sequence, and units that do nothing of their own."""

from collections.abc import Iterator

import torch

from sounding import Curve, Finding, Metric, Reading, Skip, plugin
from sounding.geometry.moments import ClassMoments
from sounding.geometry.ranks import ranks_of, units_of, velocity_and_acceleration
from sounding.passes import LayerMoments, TokenRanks

_VERL = "Huang et al. 2025, arXiv:2509.23808 (ERV, ERA)"
_FLOOR = 1e-12  # of the largest variance: rounding of a constant


@plugin(
    version=1,
    cost="data",
    metrics=[
        Metric("effective_rank", "1", "exp of the entropy of the normalised singular values", "Roy and Vetterli 2007"),
        Metric("participation_ratio", "1", "(Σλ)²/Σλ² of the covariance's eigenvalues", "Gao et al. 2017"),
        Metric("stable_rank", "1", "Σλ/λ_max of the covariance's eigenvalues", "Rudelson and Vershynin 2007"),
        Metric("dead_units", "count", "units that are constant over the split", "definition"),
        Metric(
            "duplicate_units", "count", "living units that an earlier one equals up to scale and offset", "definition"
        ),
        Metric("rank_velocity", "1", "ERV: effective rank of a prefix less the mean over shorter ones", _VERL),
        Metric("rank_acceleration", "1", "ERA: change of ERV from one prefix to the next", _VERL),
        Metric("rank_by_token", "1", "effective rank of the first t tokens' hidden states", _VERL, kind="curve"),
    ],
)
def feature_rank(
    layer_moments: LayerMoments, token_ranks: TokenRanks, *, duplicate: float = 0.9999
) -> Iterator[Finding]:
    """Ranks of every layer's centred outputs over a split; units correlated beyond `duplicate` count as double."""
    for name, reason in layer_moments.missing.items():
        yield Skip(reason, part=name)
    for split, layers in layer_moments.splits.items():
        for place, (name, moments) in enumerate(layers.items()):
            yield from _of_layer(moments, duplicate, name, split, place)
    for split, sequences in token_ranks.splits.items():
        yield from _along_tokens(sequences, token_ranks.stride, split)


def _of_layer(moments: ClassMoments, duplicate: float, name: str, split: str, place: int) -> Iterator[Finding]:
    if not moments.finite:
        yield Skip("its outputs are NaN or infinite", part=name)
        return
    covariance = moments.total()
    ranks = ranks_of(torch.linalg.eigvalsh(covariance), moments.within.noise)
    if ranks is None:
        yield Skip("it puts out the same for every example", part=name)
        return
    units = units_of(covariance, duplicate, _FLOOR)
    for metric, value in (
        ("effective_rank", ranks.effective),
        ("participation_ratio", ranks.participation),
        ("stable_rank", ranks.stable),
        ("dead_units", units.dead),
        ("duplicate_units", units.duplicate),
    ):
        yield Reading(metric, value, split=split, part=name, depth=place)


def _along_tokens(sequences: tuple[torch.Tensor, ...], stride: int, split: str) -> Iterator[Finding]:
    longest = max((len(each) for each in sequences), default=0)
    if longest == 0:
        yield Skip(f"no sequence has `stride` = {stride} tokens", part=split)
        return
    means = [torch.stack([each[place] for each in sequences if len(each) > place]).mean() for place in range(longest)]
    ends = tuple(float(stride * (place + 1)) for place in range(longest))
    yield Curve("rank_by_token", ends, tuple(float(each) for each in means), split=split)
    rates = [velocity_and_acceleration(each[None]) for each in sequences]
    for metric, found in zip(("rank_velocity", "rank_acceleration"), zip(*rates, strict=True), strict=True):
        values = torch.cat([each.flatten() for each in found])
        if len(values):
            yield Reading(metric, float(values.mean()), split=split)
