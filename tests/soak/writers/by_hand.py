"""What a reading should be: norms of weights, and progress, that a library opened itself."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

Weights = Mapping[str, torch.Tensor]


def norms(weights: Weights) -> dict[str, float]:
    kept = {name: each for name, each in weights.items() if each.is_floating_point() and ".running_" not in name}
    return {name: float(each.detach().double().norm()) for name, each in kept.items()}


def keep(hand: Path, run: str, step: int, weights: Weights, progress: Mapping[str, float] | None = None) -> None:
    """Write HAND/RUN/STEP.json, of a checkpoint whose one network is measured."""
    keep_networks(hand, run, step, {"": weights}, progress)


def keep_networks(
    hand: Path, run: str, step: int, networks: Mapping[str, Weights], progress: Mapping[str, float] | None = None
) -> None:
    """The same for several networks, by the names they have in the settings; `progress` by columns of `checkpoints`."""
    path = hand / run / f"{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {name: norms(weights) for name, weights in networks.items()}
    path.write_text(json.dumps({"networks": found, "progress": dict(progress or {})}))


def keep_attributes(hand: Path, run: str, attributes: Mapping[str, object]) -> None:
    """Write HAND/RUN.attributes.json."""
    (hand / f"{run}.attributes.json").write_text(json.dumps(dict(attributes)))
