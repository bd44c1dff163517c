"""What a network makes of the examples of a sample when their inputs are changed, and how many it was asked for."""

from typing import Any

import torch

from sounding.passes.model import Model
from sounding.passes.sample import Sample

_AT_ONCE = 64  # examples in a forward pass


class Responses:
    """The network and a sample of the probe; `forwards` counts the examples that went through the network."""

    def __init__(self, model: Model, sample: Sample) -> None:
        self.model, self.sample = model, sample
        self.forwards = 0

    def to(self, inputs: torch.Tensor) -> torch.Tensor | None:
        """Outputs [examples, outputs] in float64 on the CPU; None for outputs of another form."""
        parts: list[torch.Tensor] = []
        for start in range(0, len(inputs), _AT_ONCE):
            rows = inputs[start : start + _AT_ONCE]
            with torch.no_grad():
                found: Any = self.model.outputs(rows)
            self.forwards += len(rows)
            if not isinstance(found, torch.Tensor) or found.ndim != 2 or not found.is_floating_point():
                return None
            parts.append(found.cpu().double())
        return torch.cat(parts)

    @property
    def classes(self) -> torch.Tensor | None:
        """The targets [examples] where they are classes."""
        targets = self.sample.targets
        if not isinstance(targets, torch.Tensor) or targets.ndim != 1 or targets.is_floating_point():
            return None
        return targets.cpu()
