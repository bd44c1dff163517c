"""What numbers about the loss around a checkpoint rest on, in words: the metric `conditions` of all who tell such."""

from sounding.contract import Metric
from sounding.curvature.curved import Facts
from sounding.recipe import Recipe

CONDITIONS = Metric(
    "conditions", "1", "loss, examples and their digest, BatchNorm's mode, number type, batches and draws that all "
    "rests on", "definition", kind="label",
)  # fmt: skip

BATCH_NORM = {
    "none": "no BatchNorm",
    "eval": "BatchNorm by running statistics",
    "train": "BatchNorm by batches",
}


def conditions(loss: str, examples: int, split: str, subset: str, *more: str) -> str:
    """The label; `loss` is as `loss_in_words` has it, `subset` a digest, `more` further words, empty ones left out."""
    return "; ".join(filter(None, (loss, f"{examples} examples of {split}, subset {subset}", *more)))


def conditions_of(facts: Facts) -> str:
    """The label of what rests on a matrix."""
    by = f" of {facts.batch_size}" if facts.batch_size else ""
    return conditions(
        facts.loss,
        facts.examples,
        facts.split,
        facts.subset,
        BATCH_NORM[facts.batch_norm] + by,
        f"{facts.parameters} parameters",
        facts.engine,
        facts.dtype,
        f"weight decay: {facts.weight_decay}" if facts.weight_decay else "no weight decay",
        f"preconditioned by {facts.preconditioner}" if facts.preconditioner else "",
    )


def loss_in_words(recipe: Recipe, unit: str) -> str:
    """Whose loss it is, and over what the mean is taken."""
    whose = "the recipe's loss" if "loss" in recipe.functions else "cross-entropy"
    return f"{whose}, weighted mean over {unit}s"
