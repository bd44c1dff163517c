"""Hugging Face's Trainer: one file, shards, rotation, and an adapter. `hugging_face.py STORE HAND`."""

import functools
import shutil
import sys
import time
from pathlib import Path

import torch
from by_hand import keep
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainerState, TrainingArguments

STEPS, EVERY = 40, 10
PAUSE = 3.0  # seconds of "training" between checkpoints, so that what rotates away was there for a while


class Aside(TrainerCallback):
    """Copies every checkpoint aside when it is saved, before it may be rotated away."""

    def __init__(self, hand: Path) -> None:
        self.hand = hand

    def on_save(self, args: TrainingArguments, state: object, control: object, **_: object) -> None:
        step = state.global_step  # type: ignore[attr-defined]
        shutil.copytree(Path(args.output_dir) / f"checkpoint-{step}", self.hand / "copies" / f"{step}")
        time.sleep(PAUSE)


def network() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=96, n_positions=16, n_embd=24, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def fit(model: torch.nn.Module, store: Path, hand: Path, run: str, limit: int | None = None) -> None:
    tokens = torch.randint(0, 96, (64, 16), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = TrainingArguments(
        output_dir=str(store / run), max_steps=STEPS, save_steps=EVERY, save_total_limit=limit, report_to=[],
        per_device_train_batch_size=8, use_cpu=True, disable_tqdm=True, logging_steps=EVERY, learning_rate=0.01,
    )  # fmt: skip
    copies = hand / run
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Aside(copies)]).train()


def progress(copy: Path) -> dict[str, float]:
    """What the Trainer itself says in a checkpoint."""
    state = TrainerState.load_from_json(str(copy / "trainer_state.json"))
    groups = torch.load(copy / "optimizer.pt", weights_only=True)["param_groups"]
    return {"updates": state.global_step, "epoch": state.epoch, "lr_stored": groups[0]["lr"]}


def changes(model: PeftModel) -> dict[str, torch.Tensor]:
    """What the adapter adds to each weight, by PEFT's own reckoning."""
    prefix = "base_model.model."
    layers = {name.removeprefix(prefix): layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    return {f"{name}.weight": layer.get_delta_weight("default") for name, layer in layers.items() if layer.lora_A}


def main(store: Path, hand: Path) -> None:
    for run, size, limit in (("single", None, None), ("sharded", "20KB", None), ("rotated", None, 2)):
        model = network()
        if size is not None:
            model.save_pretrained = functools.partial(model.save_pretrained, max_shard_size=size)
        fit(model, store, hand, run, limit)
        for copy in (hand / run / "copies").iterdir():
            keep(hand, run, int(copy.name), GPT2LMHeadModel.from_pretrained(copy).state_dict(), progress(copy))
    settings = LoraConfig(r=3, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    fit(get_peft_model(network(), settings), store, hand, "adapter")
    for copy in (hand / "adapter" / "copies").iterdir():
        keep(hand, "adapter", int(copy.name), changes(PeftModel.from_pretrained(network(), copy)), progress(copy))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
