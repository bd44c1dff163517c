"""The pass `elsewhere`: the loss of the network with other weights than the checkpoint's, on a fixed sample."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from sounding.batch import Batch
from sounding.contract import Run, shared_pass
from sounding.curvature.conditions import BATCH_NORM, conditions, loss_in_words
from sounding.curvature.objective import batch_norms, several_values
from sounding.curvature.settling import FEW, counting, settled
from sounding.digest import digest_of
from sounding.numbers import accumulating
from sounding.passes.model import Model
from sounding.passes.predictions import Predictions, PredictionsAccumulator
from sounding.passes.sample import Sample, sample_of
from sounding.probe import TRAIN, Probe, rows_of
from sounding.recipe import Recipe

Statistics = Literal["reestimated", "stored"]


class Elsewhere:
    """A copy of the network that can be given any weights; the checkpoint's own `model` stays as it is.

    `parameters` and `buffers` are the checkpoint's, by name, parameters that are tied once. `has_batch_norm` says
    whether there are running statistics, which belong to the weights they were gathered under and to no others.
    """

    def __init__(self, model: Model, samples: Mapping[str, Sample], unit: str, batch: int) -> None:
        self._model = replace(model, module=copy.deepcopy(model.module).requires_grad_(False).eval())
        self._unit, self._batch = unit, batch
        self._samples = samples
        self._probe = _probe_of(samples, unit)
        self.parameters = {name: each.detach() for name, each in model.module.named_parameters()}
        self.buffers = {name: each.detach() for name, each in model.module.named_buffers()}
        self._norms = [each for each in batch_norms(self._model.module) if each.running_mean is not None]
        self._momenta = [each.momentum for each in self._norms]
        self._settled = False

    @property
    def has_batch_norm(self) -> bool:
        """Whether a layer normalises by running statistics."""
        return bool(self._norms)

    @property
    def examples(self) -> Mapping[str, int]:
        """Size of the sample, by split."""
        return {name: len(sample) for name, sample in self._samples.items()}

    def at(
        self,
        parameters: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor] | None = None,
        statistics: Statistics = "reestimated",
    ) -> Predictions:
        """Losses and right answers of every example of the sample with these weights; by default, the own buffers.

        With statistics="reestimated" BatchNorm's running statistics are gathered anew from the sample of the train
        split, all of it counting alike, in evaluation mode but for those layers.

        Raises Unavailable for a network that gives other losses when it is asked again, and where a batch is too small
        for statistics.
        """
        if not self._settled:  # before any other weights are in it, so that it is this checkpoint that is judged
            few = partial(self._taken, TRAIN, 0, min(FEW, len(self._samples[TRAIN])))
            settled(few, lambda found: counting(found.losses, found.weights))
            self._settled = True
        self._set(parameters, self.buffers if buffers is None else buffers)
        if statistics == "reestimated" and self._norms:
            self._reestimate()
        filling = PredictionsAccumulator(self._probe)
        with torch.no_grad():
            for split, start, stop in self._chunks():
                filling.update(self._taken(split, start, stop))
        return filling.result()

    def conditions(self, split: str, statistics: Statistics = "reestimated") -> str:
        """What the losses of a split rest on."""
        anew = f"BatchNorm's statistics gathered anew from {len(self._samples[TRAIN])} examples of {TRAIN}"
        mode = anew if self._norms and statistics == "reestimated" else BATCH_NORM["eval" if self._norms else "none"]
        sample = self._samples[split]
        digest = digest_of([split, sample.positions, sample.inputs, sample.targets])[:16]
        loss, dtype = loss_in_words(self._model.recipe, self._unit), str(self._model.dtype).removeprefix("torch.")
        return conditions(loss, len(sample), split, digest, mode, dtype)

    def _set(self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]) -> None:
        module = self._model.module
        with torch.no_grad():
            for own, given in ((module.named_parameters(), parameters), (module.named_buffers(), buffers)):
                for name, tensor in own:
                    tensor.copy_(given[name])

    def _reestimate(self) -> None:
        """Running statistics as the mean over batches of one size; what is left over at the end is left out.

        Every batch is of examples from all over the sample, as in a probe that is sorted neighbours are of one class.
        """
        sample = self._samples[TRAIN]
        count = max(1, len(sample) // self._batch)
        whole = count * min(self._batch, len(sample))
        try:
            for norm in self._norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # None: the plain mean over what it has seen since
            with torch.no_grad(), several_values(self._norms):
                for first in range(count):
                    self._model.outputs(rows_of(sample.inputs, slice(first, whole, count)))
        finally:
            for norm, momentum in zip(self._norms, self._momenta, strict=True):
                norm.momentum, norm.training = momentum, False

    def _chunks(self) -> Iterator[tuple[str, int, int]]:
        for name, sample in self._samples.items():
            for start in range(0, len(sample), self._batch):
                yield name, start, min(start + self._batch, len(sample))

    def _taken(self, split: str, start: int, stop: int) -> Batch:
        sample = self._samples[split]
        inputs, targets = sample.rows(start, stop), rows_of(sample.targets, slice(start, stop))
        outputs = self._model.outputs(inputs)
        losses = self._model.losses(outputs, targets, inputs, stop - start, self._unit)
        exact = accumulating(self._model.device)
        values, weights = losses.values.to(exact), losses.weights.to(exact)
        return Batch(split, start, stop - start, inputs, targets, outputs, values, weights)


@shared_pass(version=3)
def elsewhere(
    model: Model, recipe: Recipe, run: Run, device: torch.device, *, examples: int = 512, batch: int = 256
) -> Elsewhere:
    """A copy of the network to be evaluated with other weights, on at most `examples` of each split."""
    probe = recipe.probe(run)
    samples = {name: sample_of(recipe, run, device, name, examples) for name in probe.splits}
    return Elsewhere(model, samples, probe.unit, batch)


def mixed(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """(1 - share)·one + share·other; whole numbers and the like are taken from the nearer end."""
    blended: dict[str, torch.Tensor] = {}
    for name, tensor in one.items():
        if tensor.is_floating_point():
            blended[name] = torch.lerp(tensor, other[name].to(tensor), share)
        else:
            blended[name] = tensor if share < 0.5 else other[name]
    return blended


def offset(
    parameters: Mapping[str, torch.Tensor], direction: Mapping[str, torch.Tensor], length: float
) -> dict[str, torch.Tensor]:
    """Parameters moved by `length` times a direction; those that it does not name stay."""
    return {
        name: torch.add(tensor, direction[name].to(tensor), alpha=length) if name in direction else tensor
        for name, tensor in parameters.items()
    }


def _probe_of(samples: Mapping[str, Sample], unit: str) -> Probe:
    """The samples as a probe, whose splits the predictions are told by."""
    data = {name: (sample.inputs, sample.targets) for name, sample in samples.items()}
    ids = {name: list(sample.ids) for name, sample in samples.items()}
    return Probe(
        train=data[TRAIN], heldout=data.get("heldout"), ids=ids, unit="token" if unit == "token" else "example"
    )
