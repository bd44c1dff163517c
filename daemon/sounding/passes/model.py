"""The pass `model`: the recipe's architecture with the checkpoint's weights in it, in evaluation mode."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sounding.contract import Run, shared_pass
from sounding.errors import SoundingError
from sounding.losses import Losses
from sounding.matching import match
from sounding.passes.weights import Weights
from sounding.recipe import Recipe
from sounding.records import Checkpoint


@dataclass(frozen=True)
class Model:
    """A network ready to be measured, with the operator's way of calling it."""

    module: nn.Module
    recipe: Recipe
    device: torch.device
    stored: Mapping[str, str] = field(default_factory=dict)  # the architecture's name → the checkpoint's

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters (of the first one, if mixed)."""
        return next((each.dtype for each in self.module.parameters()), torch.get_default_dtype())

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Trainable parameters by name, tied ones once."""
        return {name: each for name, each in self.module.named_parameters() if each.requires_grad}

    def outputs(self, inputs: Any) -> Any:
        """What the network makes of `inputs`, which lie on the model's device."""
        return self.recipe.forward(self.module, inputs)

    def losses(self, outputs: Any, targets: Any, inputs: Any, examples: int, unit: str) -> Losses:
        """Loss and weight of every example, or of every token."""
        return self.recipe.losses(outputs, targets, inputs, examples, unit)


@shared_pass(version=1)
def model(
    weights: Weights, recipe: Recipe, run: Run, checkpoint: Checkpoint, network: str, device: torch.device
) -> Model:
    """The architecture with the weights loaded strictly; computed in the architecture's own floating-point type."""
    module = recipe.architecture(checkpoint, run, network)
    stored = load_strictly(module, weights)
    module.eval()
    return Model(module.to(device), recipe, device, stored)


def load_strictly(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Copy every weight into `module`; return the stored name of each of the module's.

    Raises SoundingError unless names and shapes agree one to one.
    """
    _materialize(module)
    own = {name: each for name, each in module.state_dict(keep_vars=True).items() if isinstance(each, torch.Tensor)}
    first: dict[int, str] = {}
    twins = {name: first[id(each)] for name, each in own.items() if first.setdefault(id(each), name) != name}
    pairs = match(_shapes(weights), _shapes(own), twins)
    _require_ties(twins, pairs, weights)
    state = {name: weights[source] for name, source in pairs.items()}
    loaded = module.load_state_dict(state, strict=False)
    left = [name for name in loaded.missing_keys if name in pairs]
    if left or loaded.unexpected_keys:
        raise SoundingError(
            f"the architecture's own loading refused {', '.join(left or loaded.unexpected_keys)}; "
            "it changes names while loading, which sounding cannot follow: return the plain module."
        )
    return pairs


def _require_ties(twins: Mapping[str, str], pairs: Mapping[str, str], weights: Mapping[str, torch.Tensor]) -> None:
    """What the architecture ties must be equal in the checkpoint, else one of the two would silently win."""
    for name, first in twins.items():
        if name not in pairs or pairs[name] == pairs[first]:
            continue
        one, two = weights[pairs[first]], weights[pairs[name]]
        if one.data_ptr() != two.data_ptr() and not torch.equal(one.nan_to_num(), two.nan_to_num()):
            raise SoundingError(
                f"the architecture ties `{name}` to `{first}`, but the checkpoint stores different values for them; "
                "build the network untied."
            )


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in tensors.items()}


def _materialize(module: nn.Module) -> None:
    """Give tensors on the meta device memory; they are all loaded afterwards, so what is not stored is refused."""
    stored = {id(each) for each in module.state_dict(keep_vars=True).values()}
    real: dict[int, Any] = {}
    for prefix, child in module.named_modules():
        for owned in (child._parameters, child._buffers):
            for name, tensor in owned.items():
                if tensor is None or tensor.device.type != "meta":
                    continue
                if id(tensor) not in stored:
                    prefix = f"{prefix}." if prefix else ""
                    raise SoundingError(
                        f"the architecture leaves `{prefix}{name}` on the meta device, and no checkpoint holds it; "
                        "build that buffer on the CPU."
                    )
                real.setdefault(id(tensor), _on_cpu(tensor))
                owned[name] = real[id(tensor)]


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
