"""The pass `layer_moments`: means and scatter of what the layers put out, and of the features, along the depth."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch

from sounding.batch import Batch, Tapped
from sounding.contract import accumulator
from sounding.geometry.class_moments import BUFFER, ClassMomentsState
from sounding.geometry.moments import ClassMoments
from sounding.losses import is_integral
from sounding.tap import Tap


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Moments by split and layer, layers in the network's order, the head's input last where there is a head.

    `labelled` says whether they are by class; else everything is one class. `missing` says of layers why they are
    not here.
    """

    splits: Mapping[str, Mapping[str, ClassMoments]]
    labelled: bool
    missing: Mapping[str, str]


class LayerMomentsAccumulator:
    """Fills a state for every layer and split; the rows kept of all layers together fit the one buffer."""

    def __init__(self, widest: int) -> None:
        self._widest = widest
        self._states: dict[str, dict[str, ClassMomentsState]] = {}
        self._missing: dict[str, str] = {}
        self._labelled = True

    def update(self, batch: Batch) -> None:
        """Take in one batch."""
        seen = {**self._rows(batch.taps["layers"]), **self._rows(batch.taps["features"])}
        states = self._states.setdefault(batch.split, {})
        for name, rows in seen.items():
            if name not in states:
                states[name] = ClassMomentsState(BUFFER // len(seen))
            states[name].update(rows, self._classes(batch, rows))

    def merge(self, other: Self) -> None:
        """Add another one's sums, and the rows that it keeps."""
        self._missing.update(other._missing)
        self._labelled = self._labelled and other._labelled
        for split, theirs in other._states.items():
            states = self._states.setdefault(split, {})
            for name, state in theirs.items():
                if name in states:
                    states[name].merge(state)
                else:
                    states[name] = state

    def result(self) -> LayerMoments:
        """Everything, by split and layer."""
        found = {
            split: {name: moments for name, state in states.items() if (moments := state.result()) is not None}
            for split, states in self._states.items()
        }
        return LayerMoments(found, self._labelled, self._missing)

    def _rows(self, tapped: Tapped) -> dict[str, torch.Tensor]:
        self._missing.update(tapped.missing)
        found = {}
        for name, seen in tapped.items():
            rows = seen.cpu() if seen.device.type == "mps" else seen  # which has no float64
            if rows.ndim != 2 or not rows.is_floating_point():
                self._missing[name] = f"it puts out shape {tuple(rows.shape)} of {rows.dtype}, not one vector each"
            elif rows.shape[1] > self._widest:
                self._missing[name] = f"it is {rows.shape[1]} wide, more than `widest` = {self._widest}"
            else:
                found[name] = rows
        return found

    def _classes(self, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
        targets = batch.targets
        if isinstance(targets, torch.Tensor) and is_integral(targets) and targets.shape == (len(rows),):
            return targets.to(rows.device)
        self._labelled = False
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)


def _taps(*, modules: str, widest: int) -> dict[str, Tap]:
    layers = Tap.module(modules, reduce="vector") if modules else Tap.blocks()
    features = Tap("head", reduce="mean", required=False)
    return {"layers": replace(layers, required=False), "features": features}


@accumulator(version=1, taps=_taps)
def layer_moments(*, modules: str = "", widest: int = 4096) -> LayerMomentsAccumulator:
    """Moments of what the network's blocks put out (or of modules named like `modules`), averaged over space or tokens.

    Layers of more than `widest` values are left out.
    """
    return LayerMomentsAccumulator(widest)
