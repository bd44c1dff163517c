"""λ_max of a network of GPT-2's shape (124M parameters), in a process of its own that reports its memory.

    python benchmarks/large_model.py --keep

Measures one checkpoint as the worker would, with `largest_only`, once with enough memory and once with too little: the
second must be refused with the reason, before anything large is begun.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from record import record

BUDGET_GB = 12.0
RECIPE = """
import torch
from torch import nn

from sounding.recipe import Probe

version = 1


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = (each.view(n, t, self.heads, -1).transpose(1, 2) for each in self.c_attn(self.ln_1(x)).split(d, 2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(n, t, d))
        return x + self.mlp_proj(nn.functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, layers=12, width=768, heads=12, vocabulary=50257, positions=1024):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for name, tensor in self.named_parameters():
            if tensor.ndim == 2:
                scale = (2 * layers) ** -0.5 if name.endswith("proj.weight") else 1.0
                nn.init.normal_(tensor, std=0.02 * scale)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T


def architecture(checkpoint):
    torch.manual_seed(0)
    return GPT()


def probe(run):
    tokens = torch.randint(0, 50257, (2, 129), generator=torch.Generator().manual_seed(1))
    return Probe(train=(tokens[:, :-1], tokens[:, 1:]), unit="token")
"""


def measured(directory: str, memory_gb: float, answers: Any) -> None:
    """In a process of its own: what the plugin found, CPU seconds, and the most memory there ever was."""
    import torch

    from sounding.measuring.measure import measure
    from sounding.opening import open_checkpoint
    from sounding.recipe import load_recipe
    from sounding.records import Checkpoint, Job, Key, Reading, Subject, Task
    from sounding.stamps import stamp_of

    torch.set_num_threads(1)
    path, recipe = Path(directory) / "ckpt_1.pt", Path(directory) / "recipe.py"
    with open_checkpoint(str(path)) as opened:
        progress = opened.progress
    checkpoint = Checkpoint(
        "large", "store", "run", 1, str(path), "torch", "large", stamp_of(path), 1, datetime.now(UTC), progress
    )
    task = Task(Key("sharpness", 1, "", "", "large"), Subject("checkpoint", "store", "run", 1, "large"),
                {"largest_only": True})  # fmt: skip
    job = Job(1, checkpoint, (task,), recipe=str(recipe), passes={"curvature": {"memory_gb": memory_gb}})
    begun, base = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (result,) = measure(job, recipe=load_recipe(str(recipe)))
    readings = [each for each in result.findings if isinstance(each, Reading)]
    answers.put(
        {
            "memory_gb": memory_gb,
            "ending": str(result.ending),
            "reason": result.reason,
            "cpu_seconds": round(time.process_time() - begun, 1),
            "rss_before_gb": round(base / 2**20, 2),
            "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "readings": [
                {"metric": each.metric, "value": each.value, "low": each.low, "high": each.high, "status": each.quality,
                 "label": each.label} for each in readings
            ],
        }
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/large_model.json")
    keep = parser.parse_args().keep
    found = []
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "recipe.py").write_text(RECIPE)
        maker = multiprocessing.get_context("spawn")
        saving = maker.Process(target=saved, args=(directory,))
        saving.start()
        saving.join()
        for memory_gb in (1.0, BUDGET_GB):
            answers = maker.Queue()
            child = maker.Process(target=measured, args=(directory, memory_gb, answers))
            child.start()
            found.append(answers.get())
            child.join()
            print(json.dumps(found[-1], indent=1), flush=True)
    refused, done = found
    if keep:
        record("large_model", {"parameters": "124M, GPT-2's shape", "tokens": 256, "refused": refused, "done": done})
    sys.exit(0 if done["peak_rss_gb"] <= BUDGET_GB and not refused["readings"] else 1)


def saved(directory: str) -> None:
    """Write the checkpoint."""
    import torch

    from sounding.recipe import load_recipe

    recipe = load_recipe(str(Path(directory) / "recipe.py"))
    torch.save({"model": recipe.functions["architecture"](None).state_dict()}, Path(directory) / "ckpt_1.pt")


if __name__ == "__main__":
    main()
