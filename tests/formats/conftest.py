"""Checkpoints as real writers make them."""

import argparse
import dataclasses
import datetime
import enum
import json
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

_Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass
class Config:
    """A configuration as trainers pickle it."""

    lr: float = 3e-4
    depth: int = 12
    name: str = "small"


class Colour(enum.Enum):
    RED = "red"


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def trained(
    updates: int = 4,
) -> tuple[torch.nn.Sequential, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for update in range(updates):
        model(torch.randn(5, 6, generator=torch.Generator().manual_seed(update))).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer, scheduler


def training_dictionary() -> dict[str, object]:
    """Everything that trainers put in checkpoints, in one dictionary."""
    model, optimizer, scheduler = trained()
    shared = torch.arange(24, dtype=torch.float32)
    return {
        "model": model.state_dict(),
        "ema": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "whole": model,
        "iter_num": 4,
        "epoch": np.int64(2),
        "best": np.float32(0.25),
        "seen": torch.tensor(640),
        "args": argparse.Namespace(lr=0.1, nested={"width": 8}),
        "config": Config(),
        "where": pathlib.PurePosixPath("/runs/a"),
        "when": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "colour": Colour.RED,
        "counts": Counter("aab"),
        "default": defaultdict(list, {"a": [1]}),
        "window": deque([1.0, 2.0], maxlen=5),
        "ordered": OrderedDict(a=1),
        "numbers": np.arange(3.0),
        "set": {1, 2},
        "rng": torch.get_rng_state(),
        "dtype": torch.bfloat16,
        "views": [shared[3:7], shared.view(4, 6).t(), shared[::5], shared[0], shared[:0]],
        "types": {
            "bf16": torch.randn(3).bfloat16(), "f16": torch.randn(3).half(), "f64": torch.randn(2, 2).double(),
            "f8a": torch.randn(4).to(torch.float8_e4m3fn), "f8b": torch.randn(4).to(torch.float8_e5m2),
            "c64": torch.randn(2, dtype=torch.complex64), "i8": torch.tensor([-1, 2], dtype=torch.int8),
            "u16": torch.tensor([1, 65535], dtype=torch.uint16), "flag": torch.tensor([True, False]),
            "i64": torch.tensor(2**40), "expanded": torch.ones(1).expand(3, 4),
        },
    }  # fmt: skip


@pytest.fixture
def training() -> dict[str, object]:
    """A training dictionary of every kind of value."""
    return training_dictionary()


@pytest.fixture
def training_file(tmp_path: Path, training: dict[str, object]) -> Path:
    """The same, saved."""
    path = tmp_path / "ckpt.pt"
    torch.save(training, path)
    return path


@pytest.fixture
def tensors() -> _Tensors:
    """Tensors of every type that safetensors files hold."""
    torch.manual_seed(1)
    return {
        "w": torch.randn(4, 5), "half": torch.randn(3).half(), "brain": torch.randn(7).bfloat16(),
        "e4m3": torch.randn(3).to(torch.float8_e4m3fn), "e5m2": torch.randn(5).to(torch.float8_e5m2),
        "count": torch.tensor(7), "empty": torch.zeros(0, 3), "flag": torch.tensor([True]),
        "wide": torch.tensor([2**63 - 1]), "bytes": torch.tensor([1, 2, 255], dtype=torch.uint8),
    }  # fmt: skip


@pytest.fixture
def safetensors_file(tmp_path: Path, tensors: _Tensors) -> Path:
    path = tmp_path / "step_10.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"step": "10", "format": "pt"})
    return path


@pytest.fixture
def trainer_directory(tmp_path: Path) -> Callable[..., Path]:
    """Writes what Hugging Face's Trainer writes, in its order; `shards` splits the weights."""

    def write(step: int = 30, shards: int = 1, *, safe: bool = True) -> Path:
        directory = tmp_path / f"checkpoint-{step}"
        directory.mkdir(parents=True)
        model, optimizer, scheduler = trained()
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        (directory / "config.json").write_text(json.dumps({"hidden_size": 8, "model_type": "mlp"}))
        write_weights(directory, weights, shards, safe=safe)
        torch.save(argparse.Namespace(learning_rate=0.1, weight_decay=0.01), directory / "training_args.bin")
        torch.save(optimizer.state_dict(), directory / "optimizer.pt")
        torch.save(scheduler.state_dict(), directory / "scheduler.pt")
        torch.save({"cpu": torch.get_rng_state()}, directory / "rng_state.pth")
        state = {"epoch": 1.5, "global_step": step, "log_history": [], "num_input_tokens_seen": 0}
        (directory / "trainer_state.json").write_text(json.dumps(state, indent=2))
        return directory

    return write


def write_weights(directory: Path, weights: _Tensors, shards: int, *, safe: bool) -> None:
    stem, suffix = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    names = list(weights)
    files = (
        [f"{stem}-{i + 1:05}-of-{shards:05}.{suffix}" for i in range(shards)] if shards > 1 else [f"{stem}.{suffix}"]
    )
    for place, file in enumerate(files):
        part = {name: weights[name] for name in names[place::shards]}
        if safe:
            safetensors.torch.save_file(part, directory / file, metadata={"format": "pt"})
        else:
            torch.save(part, directory / file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": {name: files[i % shards] for i, name in enumerate(names)}}
        (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
