"""On how simple a part of its input a network relies: few directions, some frequencies, few Fourier components."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from sounding import Curve, Finding, Metric, Reading, Run, Skip, plugin
from sounding.estimates import mean_of
from sounding.fourier import band_of, cyclic_powers, effective_number, frequencies, gini
from sounding.passes import Model, Recipe, Responses, projection_of, sample_of

_LDSB = "Morwani et al. 2023, arXiv:2302.00457 (low-dimensional input dependence); P from the first layer's weight"
_BANDS = "definition; L1 frequency |f_x| + |f_y|, half-open bands"
_FOURIER = "definition, of the shares of power of the embedding's frequencies 1 to p/2"


@plugin(
    version=1,
    cost="data",
    metrics=[
        Metric("preserving_rank", "count", "smallest rank of P at which swapping the rest of the input with another "
               "example's changes at most `tolerance` of the predictions (of the logits, without classes)", _LDSB),
        Metric("input_dimension", "count", "numbers in one input", "definition"),
        Metric("prediction_change_complement", "fraction", "predictions that change when the input outside P is "
               "another example's, at preserving_rank", _LDSB),
        Metric("prediction_change_projection", "fraction", "the same when the input inside P is", _LDSB),
        Metric("logit_change_complement", "1", "mean of |f(Px1 + P'x2) - f(x1)| / |f(x1)|, P' = I - P, at "
               "preserving_rank", _LDSB),
        Metric("logit_change_projection", "1", "mean of |f(P'x1 + Px2) - f(x1)| / |f(x1)|", _LDSB),
        Metric("change_by_rank", "1", "what preserving_rank is read from, by rank", _LDSB, kind="curve"),
        Metric("accuracy", "fraction", "right predictions on these examples", "definition"),
        Metric("accuracy_band_only", "fraction", "right predictions when only one band of frequencies is kept", _BANDS),
        Metric("accuracy_band_removed", "fraction", "right predictions when one band is removed", _BANDS),
        Metric("fourier_effective_number", "count", "1 over the sum of squared shares of power", _FOURIER),
        Metric("fourier_gini", "1", "Gini coefficient of the shares of power", _FOURIER),
        Metric("fourier_power", "fraction", "share of power by frequency", _FOURIER, kind="curve"),
        Metric("forwards", "example", "forward passes taken, counted in examples", "definition"),
    ],
)  # fmt: skip
def simplicity_bias(
    model: Model,
    recipe: Recipe,
    run: Run,
    *,
    examples: int = 512,
    seed: int = 0,
    tolerance: float = 0.05,
    bands: int = 8,
    image_shape: tuple[int, ...] = (),
    cyclic: int = 0,
    embedding: str = "",
) -> Iterator[Finding]:
    """Rank of the input projection, bands of image frequencies and Fourier components that predictions rest on.

    Measured on `examples` of the held-out split (train without one). `image_shape`, e.g. [1, 28, 28], is for images
    given as rows; images of shape [channels, height, width] are recognised. `cyclic` is the size p of a cyclic
    vocabulary, whose `embedding` is the network's first one unless named.
    """
    split = "heldout" if "heldout" in recipe.probe(run).splits else "train"
    responses = Responses(model, sample_of(recipe, run, model.device, split, examples, seed))
    found = [*_projection(responses, tolerance, seed), *_frequency_bands(responses, bands, image_shape)]
    yield from found
    if any(isinstance(each, Reading) for each in found):
        yield Reading("forwards", responses.forwards, split=split)
    yield from _fourier(model, cyclic, embedding)


def _projection(responses: Responses, tolerance: float, seed: int) -> Iterator[Finding]:
    found, split = projection_of(responses, tolerance, seed), responses.sample.split
    if isinstance(found, str):
        yield Skip(found, part="preserving_rank")
        return
    yield Reading("preserving_rank", found.rank, split=split)
    yield Reading("input_dimension", found.dimension, split=split)
    yield Curve("change_by_rank", tuple(map(float, found.by_rank)), tuple(found.by_rank.values()), split=split)
    for swapped, name in ((found.complement, "complement"), (found.projection, "projection")):
        if swapped.predictions is not None:
            yield _mean(f"prediction_change_{name}", swapped.predictions, split)
        yield _mean(f"logit_change_{name}", swapped.logits, split)


def _mean(metric: str, values: torch.Tensor, split: str, **place: Any) -> Reading:
    """Over examples, with its standard error."""
    mean = mean_of(values.double().cpu().numpy())
    return Reading(metric, mean.value, split=split, stderr=mean.error, **place)


def _frequency_bands(responses: Responses, bands: int, image_shape: tuple[int, ...]) -> Iterator[Finding]:
    part, split = "accuracy_band_only", responses.sample.split
    inputs, classes = responses.sample.inputs, responses.classes
    images = _images(inputs, image_shape)
    if isinstance(images, str):
        yield Skip(images, part)
        return
    whole = None if classes is None else responses.to(inputs)
    if classes is None or whole is None:
        yield Skip("targets are no classes, or outputs no logits: no prediction is right or wrong", part)
        return
    yield _mean("accuracy", whole.argmax(1) == classes, split)
    top = int(frequencies(*images.shape[-2:]).max()) + 1
    edges = sorted({round(top * place / bands) for place in range(bands + 1)})
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        kept = band_of(images, low, high)
        for metric, changed in (("accuracy_band_only", kept), ("accuracy_band_removed", images - kept)):
            outputs = responses.to(changed.reshape(inputs.shape))
            assert outputs is not None, "outputs had this form before"
            yield _mean(metric, outputs.argmax(1) == classes, split, index=index, group=f"[{low}, {high})")


def _images(inputs: Any, shape: tuple[int, ...]) -> torch.Tensor | str:
    """The inputs as [examples, channels, height, width], or why not."""
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        return "inputs are no images"
    if shape and (len(shape) < 2 or math.prod(shape) != inputs[0].numel()):
        return f"`image_shape` {list(shape)} does not fit inputs of {inputs[0].numel()} numbers"
    if not shape and inputs.ndim != 4:
        return "inputs are no images [channels, height, width]; give rows of pixels a shape with `image_shape`"
    return inputs.reshape(len(inputs), *shape) if shape else inputs


def _fourier(model: Model, cyclic: int, embedding: str) -> Iterator[Finding]:
    part = "fourier_effective_number"
    if cyclic < 3:
        yield Skip("no cyclic vocabulary was named (`cyclic`)", part)
        return
    parameters = dict(model.module.named_parameters())
    tables = (f"{name}.weight" for name, each in model.module.named_modules() if isinstance(each, nn.Embedding))
    name = embedding or next((each for each in tables if parameters[each].shape[0] >= cyclic), "")
    if name not in parameters or parameters[name].ndim != 2 or parameters[name].shape[0] < cyclic:
        named = f"`{name}` is no parameter" if name else "the network has no embedding"
        yield Skip(f"{named} with {cyclic} rows or more (`cyclic`, `embedding`)", part)
        return
    shares = cyclic_powers(parameters[name][:cyclic])
    if math.isnan(shares[0]):
        yield Skip("all rows of the embedding are equal", name)
        return
    yield Reading("fourier_effective_number", effective_number(shares), part=name)
    yield Reading("fourier_gini", gini(shares), part=name)
    yield Curve("fourier_power", tuple(map(float, range(1, len(shares) + 1))), tuple(shares.tolist()), part=name)
