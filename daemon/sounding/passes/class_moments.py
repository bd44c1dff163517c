"""The pass `class_moments`: means and scatter, by class, of the features that enter the head."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from sounding.batch import Batch
from sounding.contract import Run, accumulator
from sounding.geometry.class_moments import ClassMomentsState
from sounding.geometry.moments import ClassMoments
from sounding.geometry.nearest import Share, nearest
from sounding.keyed import Keyed
from sounding.losses import is_integral
from sounding.passes.head import Head
from sounding.probe import TRAIN, Probe
from sounding.recipe import Recipe
from sounding.tap import Tap


@dataclass(frozen=True, eq=False)
class SplitMoments:
    """One split's features. Where the targets are no classes everything is one class, and `labelled` is false."""

    moments: ClassMoments
    labelled: bool
    tokens: bool  # every position is an example, and its target the class
    dropped: int  # classes with fewer tokens than asked for
    disagreement: Share | None  # of the classifier with the nearest class mean of the train split


class FeatureMoments(Keyed[str, SplitMoments]):
    """Moments of every split of the probe that had any features, by name."""


class Rows(NamedTuple):
    """Features of a batch as rows, with the class of each; no classes where the targets are something else."""

    features: torch.Tensor
    classes: torch.Tensor | None
    decisions: torch.Tensor | None


class ClassMomentsAccumulator:
    """Fills a state for every split; the train split's means are settled when the next one begins."""

    def __init__(self, head: Head, probe: Probe, least_tokens: int) -> None:
        self._head = head
        self._tokens = probe.unit == "token"
        self._least = least_tokens
        self._states: dict[str, _Split] = {}

    def update(self, batch: Batch) -> None:
        """Take in one batch."""
        rows = rows_of(batch, batch.taps["features"].only, self._head)
        if batch.split not in self._states:
            train = self._states.get(TRAIN)
            means = None if train is None or not train.any else self._finished(train).moments
            own = batch.split == TRAIN and not self._tokens  # of tokens there may be too many classes
            self._states[batch.split] = _Split(means, own)
        self._states[batch.split].add(rows)

    def result(self) -> FeatureMoments:
        """Everything, by split."""
        return FeatureMoments({name: self._finished(state) for name, state in self._states.items() if state.any})

    def _finished(self, split: "_Split") -> SplitMoments:
        moments = split.moments()
        kept = moments.of_at_least(self._least) if self._tokens and split.labelled else moments
        dropped = len(moments.classes) - len(kept.classes)
        return SplitMoments(kept, split.labelled, self._tokens, dropped, split.disagreement(moments))


class _Split:
    def __init__(self, train: ClassMoments | None, own: bool) -> None:
        self._own = own  # decisions are compared with the split's own means
        self._state = ClassMomentsState()
        self._train = train
        self._compared = self._differing = 0
        self.labelled = True
        self.any = False

    def add(self, rows: Rows) -> None:
        self.any = self.any or len(rows.features) > 0
        self.labelled = self.labelled and rows.classes is not None
        classes = rows.classes
        if classes is None:
            classes = torch.zeros(len(rows.features), dtype=torch.int64, device=rows.features.device)
        self._state.update(rows.features, classes, rows.decisions if self._own else None)
        if self._train is not None and rows.decisions is not None and len(self._train.classes):
            near = self._train.classes[nearest(rows.features, self._train.means)]
            self._differing += int((near != rows.decisions).sum())
            self._compared += len(near)

    def moments(self) -> ClassMoments:
        found = self._state.result()
        assert found is not None, "asked of splits that had features"
        return found

    def disagreement(self, moments: ClassMoments) -> Share | None:
        if self._own:
            return moments.disagreement
        return Share(*(self._differing / self._compared,) * 3) if self._compared else None


def rows_of(batch: Batch, features: torch.Tensor, head: Head) -> Rows:
    """What counts among the features, one row for each example (or token), and what the network decides for it."""
    features = features.cpu() if features.device.type == "mps" else features  # which has no float64
    shape = features.shape[:-1]
    targets, outputs = batch.targets, batch.outputs
    counted = (batch.weights != 0).to(features.device) if batch.weights.shape == shape else None
    classes = None
    if isinstance(targets, torch.Tensor) and is_integral(targets) and targets.shape == shape:
        classes = targets.to(features.device)
    decisions = None
    if classes is not None:
        logits = outputs if _is_logits(outputs, shape, head) else _logits(features, head)
        decisions = logits.argmax(-1).to(features.device)
    kept = [None if each is None else _flat(each, counted, len(shape)) for each in (features, classes, decisions)]
    assert kept[0] is not None
    rows = Rows(kept[0], kept[1], kept[2])
    outside = rows.classes is not None and bool(((rows.classes < 0) | (rows.classes >= head.classes)).any())
    return Rows(rows.features, None, None) if outside else rows


def _is_logits(outputs: object, shape: torch.Size, head: Head) -> bool:
    return isinstance(outputs, torch.Tensor) and outputs.shape == (*shape, head.classes)


def _logits(features: torch.Tensor, head: Head) -> torch.Tensor:
    weight = head.weight.detach().to(features)
    return torch.nn.functional.linear(features, weight, None if head.bias is None else head.bias.detach().to(features))


def _flat(values: torch.Tensor, counted: torch.Tensor | None, dimensions: int) -> torch.Tensor:
    flat = values.flatten(0, dimensions - 1)
    return flat if counted is None or bool(counted.all()) else flat[counted.flatten()]


@accumulator(version=1, taps={"features": Tap.head()})
def class_moments(head: Head, recipe: Recipe, run: Run, *, least_tokens: int = 10) -> ClassMomentsAccumulator:
    """Moments of the features by class, and how often the classifier decides as the nearest class mean.

    For token probes every position's target is its class, and classes with fewer than `least_tokens` are dropped.
    """
    return ClassMomentsAccumulator(head, recipe.probe(run), least_tokens)
