"""Heads of real networks, and numbers that torchmetrics computes too: JSON on standard output.

Run by an interpreter that has sounding, with the other packages on PYTHONPATH. All weights are random, which is what
makes a wrong head plain: nothing else gives the logits. Argument: "heads" or "torchmetrics".
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from sounding import Run
from sounding.contract import Unavailable
from sounding.geometry.similarity import procrustes_distance
from sounding.passes.head import head
from sounding.passes.model import Model
from sounding.recipe import Probe, Recipe

warnings.simplefilter("ignore")

TORCHVISION = ("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small",
               "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_16")  # fmt: skip
TIMM = ("convnext_atto", "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "efficientnet_lite0",
        "mixer_s32_224", "mobilenetv3_small_050", "regnety_002", "resnet18", "vit_tiny_patch16_224")  # fmt: skip
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 96}
LLAMA = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 96, "pad_token_id": 0}
TRANSFORMERS: dict[str, tuple[str, Mapping[str, object]]] = {
    "BertForSequenceClassification": ("BertConfig", SMALL),
    "DistilBertForSequenceClassification": (
        "DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "vocab_size": 96}
    ),
    "GPT2LMHeadModel": ("GPT2Config", GPT2),
    "GPT2ForSequenceClassification": ("GPT2Config", GPT2),
    "Gemma2ForCausalLM": ("Gemma2Config", {**LLAMA, "head_dim": 16, "final_logit_softcapping": 30.0}),
    "LlamaForCausalLM": ("LlamaConfig", LLAMA),
    "LlamaForSequenceClassification": ("LlamaConfig", LLAMA),
    "Qwen2ForCausalLM": ("Qwen2Config", LLAMA),
    "RobertaForSequenceClassification": ("RobertaConfig", {**SMALL, "pad_token_id": 0}),
}  # fmt: skip

# torchvision from PyPI is built for CUDA; beside a CPU build of torch its operators are missing. Of these only two are
# asked for at import, and classifiers use none.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


def networks() -> Iterator[tuple[str, Callable[[], torch.nn.Module], Any]]:
    """Name, builder and inputs of every network."""
    import timm
    import torchvision
    import transformers

    images = torch.randn(4, 3, 224, 224)
    for name in TORCHVISION:
        yield f"torchvision {name}", lambda name=name: torchvision.models.get_model(name, weights=None), images
    for name in TIMM:
        yield f"timm {name}", lambda name=name: timm.create_model(name, pretrained=False), images
    kept = torch.arange(9) < torch.tensor([[9], [5], [7], [3]])
    tokens = torch.where(kept, torch.randint(3, 96, (4, 9)), 0)
    for name, (config, settings) in TRANSFORMERS.items():
        build = getattr(transformers, name), getattr(transformers, config), settings
        yield f"transformers {name}", lambda it=build: it[0](it[1](**it[2])), {
            "input_ids": tokens, "attention_mask": kept.long(),
        }  # fmt: skip


def heads() -> dict[str, object]:
    """What was found in every network, or which line was asked for."""
    found: dict[str, object] = {}
    for name, build, inputs in networks():
        torch.manual_seed(0)
        module = build().eval()
        with torch.no_grad():
            for each in module.parameters():  # some heads start at zero, and then prove nothing
                if not each.any():
                    each.normal_(std=0.02)
        probe = Probe(train=(inputs, torch.zeros(4, dtype=torch.long)))
        recipe = Recipe("recipe.py", 1, {"probe": lambda run, probe=probe: probe})
        try:
            it = head(Model(module, recipe, torch.device("cpu")), recipe, Run("", "", {}))
            found[name] = {"name": it.name, "verified": it.verified, "how": it.how}
        except Unavailable as reason:
            found[name] = {"verified": False, "told": str(reason)}
    return found


def torchmetrics() -> dict[str, object]:
    """The largest relative difference of Procrustes disparities, 1 - (1 - distance/2)², over twelve pairs."""
    from torchmetrics.functional.shape import procrustes_disparity

    worst = 0.0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(50 + seed, 3 + seed, dtype=torch.float64, generator=generator)
        y = x @ torch.randn(3 + seed, 3 + seed, dtype=torch.float64, generator=generator)
        y += seed / 4 * torch.randn(y.shape, dtype=torch.float64, generator=generator)
        theirs = float(procrustes_disparity(x[None], y[None])[0])
        ours = 1 - (1 - procrustes_distance(x, y) / 2) ** 2
        worst = max(worst, abs(ours - theirs) / theirs)
    return {"procrustes_disparity": {"pairs": 12, "relative_difference": worst}}


if __name__ == "__main__":
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.set_num_threads(1)
    print(json.dumps({"heads": heads, "torchmetrics": torchmetrics}[sys.argv[1]]()))
