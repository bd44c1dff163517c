"""The pass `class_moments`: means and scatter, by class, of the features that enter the head."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch

from sounding.batch import Batch
from sounding.contract import Run, accumulator
from sounding.geometry.class_moments import BUFFER, ClassMomentsState
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
    """Fills a state for every split; decisions about the others are compared with the train split's means."""

    def __init__(self, head: Head, probe: Probe, least_tokens: int) -> None:
        self._head = head
        self._tokens = probe.unit == "token"
        self._least = least_tokens
        self._states: dict[str, _Split] = {}
        self._train: SplitMoments | None = None  # of what is known by now

    def update(self, batch: Batch) -> None:
        """Take in one batch."""
        rows = rows_of(batch, batch.taps["features"].only, self._head)
        state = self._state(batch.split)
        state.add(rows)
        if state.others.nbytes > BUFFER:
            state.others.settle(self._means())

    def merge(self, other: Self) -> None:
        """Add another one's sums, and the rows that it keeps.

        Where there were more decisions than are kept, those compared with means that are not the final ones are only
        bounded.
        """
        for name, state in other._states.items():
            self._state(name).merge(state)

    def result(self) -> FeatureMoments:
        """Everything, by split."""
        means = self._means()
        return FeatureMoments({name: self._finished(name, means) for name, state in self._states.items() if state.any})

    def _state(self, split: str) -> "_Split":
        """A split's, which is about to change."""
        if split == TRAIN:
            self._train = None
        if split not in self._states:
            own = split == TRAIN and not self._tokens  # of tokens there may be too many classes
            self._states[split] = _Split(own, split != TRAIN)
        return self._states[split]

    def _means(self) -> ClassMoments | None:
        if TRAIN not in self._states or not self._states[TRAIN].any:
            return None
        self._train = self._finished(TRAIN, None)
        return self._train.moments

    def _finished(self, name: str, means: ClassMoments | None) -> SplitMoments:
        if name == TRAIN and self._train is not None:
            return self._train
        split = self._states[name]
        moments = split.moments()
        kept = moments.of_at_least(self._least) if self._tokens and split.labelled else moments
        dropped = len(moments.classes) - len(kept.classes)
        share = moments.disagreement if split.own else split.others.share(means)
        return SplitMoments(kept, split.labelled, self._tokens, dropped, share)


class _Split:
    def __init__(self, own: bool, other: bool) -> None:
        self.own = own  # decisions are compared with the split's own means
        self._other = other  # or with those of the train split
        self._state = ClassMomentsState()
        self.others = _Decisions()
        self.labelled = True
        self.any = False

    def add(self, rows: Rows) -> None:
        self.any = self.any or len(rows.features) > 0
        self.labelled = self.labelled and rows.classes is not None
        classes = rows.classes
        if classes is None:
            classes = torch.zeros(len(rows.features), dtype=torch.int64, device=rows.features.device)
        self._state.update(rows.features, classes, rows.decisions if self.own else None)
        if self._other and rows.decisions is not None:
            self.others.put(rows.features, rows.decisions)

    def merge(self, other: "_Split") -> None:
        self.any = self.any or other.any
        self.labelled = self.labelled and other.labelled
        self._state.merge(other._state)
        self.others.merge(other.others)

    def moments(self) -> ClassMoments:
        found = self._state.result()
        assert found is not None, "asked of splits that had features"
        return found


class _Compared(NamedTuple):
    """How many decisions differ from the nearest of means of so many examples."""

    examples: int
    differing: int
    decisions: int


class _Decisions:
    """Decisions and their features, until the means are known that they are to be compared with."""

    def __init__(self) -> None:
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._compared: list[_Compared] = []
        self.nbytes = 0

    def put(self, features: torch.Tensor, decisions: torch.Tensor) -> None:
        self._waiting.append((features, decisions))
        self.nbytes += features.nbytes + decisions.nbytes

    def merge(self, other: "_Decisions") -> None:
        self._waiting += other._waiting
        self._compared += other._compared
        self.nbytes += other.nbytes

    def settle(self, means: ClassMoments | None) -> None:
        """Compare what waits, and let go of it; without any means all that is known is its number."""
        for features, decisions in self._waiting:
            if means is None or not len(means.classes):
                self._compared.append(_Compared(0, 0, len(decisions)))
                continue
            differing = int((means.classes[nearest(features, means.means)] != decisions).sum())
            self._compared.append(_Compared(means.examples, differing, len(decisions)))
        self._waiting, self.nbytes = [], 0

    def share(self, means: ClassMoments | None) -> Share | None:
        """Of all of them; certain are those that were compared with these means, which grow by examples only."""
        self.settle(means)
        guessed = [each for each in self._compared if each.examples]
        count, compared = (sum(each.decisions for each in some) for some in (self._compared, guessed))
        if means is None or not compared:
            return None
        sure = [each for each in guessed if each.examples == means.examples]
        differing = sum(each.differing for each in sure)
        agreeing = sum(each.decisions for each in sure) - differing
        value = sum(each.differing for each in guessed) / compared
        return Share(value, differing / count, (count - agreeing) / count)


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
