"""What a reading should be: norms of weights that a library opened itself."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch


def norms(weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(each.detach().double().norm()) for name, each in weights.items() if each.is_floating_point()}


def keep(hand: Path, run: str, step: int, weights: Mapping[str, torch.Tensor]) -> None:
    """Write HAND/RUN/STEP.json."""
    path = hand / run / f"{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(norms(weights)))
