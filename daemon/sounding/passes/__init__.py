"""Shared computations that plugins name as their needs, one per module, and the types that users of them receive."""

from sounding.opening import Opened
from sounding.passes.gradients import Gradients
from sounding.passes.model import Model
from sounding.passes.optimizer import Optimizer
from sounding.passes.other import Other
from sounding.passes.predictions import Predictions
from sounding.passes.weights import Weights
from sounding.recipe import Recipe

__all__ = ["Gradients", "Model", "Opened", "Optimizer", "Other", "Predictions", "Recipe", "Weights"]
