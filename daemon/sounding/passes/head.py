"""The pass `head`: the layer that makes logits out of features, found and proven by what it computes."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sounding.batch import moved, tensors_in
from sounding.contract import Run, Unavailable, shared_pass
from sounding.errors import SoundingError
from sounding.passes.affine import Affine, Seen, affine, watched
from sounding.passes.logits import Link, Reading, as_rows, link_between, read_logits, readings
from sounding.passes.model import Model
from sounding.passes.undisturbed import undisturbed
from sounding.probe import TRAIN
from sounding.recipe import Recipe

_FEW = 4  # examples that a head is verified on
_API = ("get_classifier", "get_output_embeddings")  # how timm and Hugging Face name theirs
_LAST = "the last layer whose output gives the logits"


@dataclass(frozen=True, eq=False)
class Head:
    """The classifier or unembedding; logits are `weight` @ features + `bias`.

    `weight` is [classes, d] and `bias` [classes] or None, float32 or float64, the model's own (do not write to them).
    `how` says how it was found, and what comes between W x + b and the logits where something does: a softcap, a
    log-softmax, a mean over positions. A head that the recipe names is believed: `verified` is false where W x + b
    did not give the logits. `calls` is how often the module runs in one forward; the last call counts.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    verified: bool
    how: str
    calls: int = 1
    reading: Reading = "each"  # how the rows that enter the module become those of the logits

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        return self.weight.shape[1]


@shared_pass(version=1)
def head(model: Model, recipe: Recipe, run: Run) -> Head:
    """Named by the recipe, else by the network's own methods, else the last layer whose output is the logits.

    Raises Unavailable with the line for the recipe to write when none proves to be it.
    """
    split = recipe.probe(run).splits[TRAIN]
    inputs, _ = (moved(each, model.device) for each in split.batch(0, min(_FEW, split.size)))
    named = recipe.head(model.module)
    likely = _likely(model.module) if named is None else {named: "the recipe"}
    with undisturbed(model.module), torch.no_grad(), watched(model.module, likely) as seen:
        outputs = model.outputs(inputs)
    logits = [each.detach() for each in tensors_in(outputs) if each.is_floating_point() and each.ndim > 0]
    for name in dict.fromkeys((*likely, *(reversed(seen) if named is None else ()))):
        found = _verified(name, seen[name], logits) if name in seen else None
        if found is not None:
            return replace(found, how=_joined(likely.get(name, _LAST), found))
    if named is not None:
        return _believed(model.module, named, seen, logits, recipe)
    raise Unavailable(_what_to_write(seen, logits, recipe))


def _likely(module: nn.Module) -> dict[str, str]:
    """Names of modules that the network's own methods give as its head, each with the method."""
    names = {id(child): name for name, child in module.named_modules()}
    found: dict[str, str] = {}
    for child in module.modules():
        for method in _API:
            if callable(getattr(child, method, None)):
                given = _modules_in(getattr(child, method)())
                found.update({names[id(each)]: f"{method}()" for each in given if id(each) in names})
    return found


def _modules_in(value: Any) -> list[nn.Module]:
    given = list(value) if isinstance(value, tuple | list) else [value]
    return [each for each in given if isinstance(each, nn.Module)]


def _verified(name: str, seen: Seen, logits: list[torch.Tensor]) -> Head | None:
    """The head that this module is, or None where W x + b does not give the logits."""
    layer = affine(seen.module)
    if layer is None or not layer.weight.any() or not layer.computes(seen):
        return None  # weights that are all zero, as some heads begin, prove nothing
    made = layer.rows(seen.output)
    for given in logits:
        wanted = as_rows(given, layer.classes)
        if wanted is None:
            continue
        for reading in readings(made, wanted):
            link = link_between(read_logits(made, wanted, reading), wanted)
            # Which position it is can be told only where nothing changes the logits.
            if link is not None and (reading != "position" or link == Link()):
                return _head(name, layer.scaled(link.scale), seen, reading, verified=True, how=link.words)
    return None


def _head(name: str, layer: Affine, seen: Seen, reading: Reading, *, verified: bool, how: str) -> Head:
    return Head(name, layer.weight, layer.bias, verified, how, seen.calls, reading)


def _joined(how: str, found: Head) -> str:
    parts = [how, found.how, "" if found.reading == "each" else f"logits are read by {found.reading}"]
    if found.calls > 1:
        parts.append(f"called {found.calls} times, the last one counts")
    return "; ".join(part for part in parts if part)


def _believed(module: nn.Module, named: str, seen: dict[str, Seen], logits: list[torch.Tensor], recipe: Recipe) -> Head:
    """The head that the recipe names and that could not be verified."""
    if named not in dict(module.named_modules()):
        raise SoundingError(
            f"{recipe.path}: head returned {named!r}, and the network has no such module; the last ones that it "
            f"runs are: {', '.join(list(seen)[-3:])}."
        )
    layer = affine(seen[named].module) if named in seen else None
    if layer is None:
        raise SoundingError(
            f"{recipe.path}: head returned {named!r}, which the network does not run, or which has no weights of "
            "shape [classes, d]; name the layer that makes the logits."
        )
    rows = layer.rows(seen[named].input)
    reading: Reading = "mean" if rows.ndim > 2 and all(each.ndim <= 2 for each in logits) else "each"
    found = _head(named, layer, seen[named], reading, verified=False, how="")
    return replace(found, how=_joined("the recipe, and its W x + b does not give the logits", found))


def _what_to_write(seen: dict[str, Seen], logits: list[torch.Tensor], recipe: Recipe) -> str:
    widths = {each.shape[-1] for each in logits} | {each.shape[1] for each in logits if each.ndim > 2}
    layers = {name: layer for name, each in seen.items() if (layer := affine(each.module)) is not None}
    fitting = [name for name, layer in layers.items() if layer.classes in widths]
    if not fitting:
        return (
            "the network's head was not found: no layer that it runs has as many outputs as there are logits. Apply "
            f"its last weights by an nn.Linear, and where that is not recognised, write in {recipe.path}:\n"
            'def head(model): return "name of that layer"'
        )
    if not layers[fitting[-1]].weight.any():
        return (
            f"the network's head was not found: the weights of `{fitting[-1]}` are all zero, which proves nothing. "
            f'Write in {recipe.path}:\ndef head(model): return "{fitting[-1]}"'
        )
    return (
        f"the network's head was not found: W x + b of `{fitting[-1]}`, the last layer that is as wide as the logits, "
        f"does not give them. If its input is what you want to have measured, write in {recipe.path}:\n"
        f'def head(model): return "{fitting[-1]}"'
    )
