"""Small trainers with torch.save alone: whatever they put in, however they name it. `plain_torch.py STORE HAND`."""

import argparse
import dataclasses
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from by_hand import Weights, keep
from omegaconf import OmegaConf

STEPS, PAUSE = 3, 3.0
Save = Callable[[Path, int, torch.nn.Module, torch.optim.Optimizer], Mapping[str, Weights]]


@dataclasses.dataclass
class Config:
    width: int = 20
    rate: float = 0.01


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 20), torch.nn.BatchNorm1d(20), torch.nn.ReLU(), torch.nn.Linear(20, 2)
    )


def loaded(path: Path, *keys: str) -> Weights:
    """The weights of a file, as torch itself loads them."""
    found: Any = torch.load(path, weights_only=False)
    for key in keys:
        found = found[key]
    return found.state_dict() if isinstance(found, torch.nn.Module) else found


def bare(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): each for name, each in weights.items()}


def overwritten(
    run: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Mapping[str, Weights]:
    """One file for ever, by a compiled model."""
    wrapped = torch.compile(model)
    state = {
        "model": wrapped.state_dict(), "optimizer": optimizer.state_dict(), "model_args": {"n_layer": 2},
        "iter_num": step, "best_val_loss": torch.tensor(0.5), "config": {"learning_rate": 0.01},
    }  # fmt: skip
    torch.save(state, run / "ckpt.pt")
    return {"": bare(loaded(run / "ckpt.pt", "model"), "_orig_mod.")}


def with_objects(
    run: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Mapping[str, Weights]:
    """Settings of every kind beside the weights, of a model in DataParallel."""
    path = run / f"step_{step}.pt"
    settings = OmegaConf.create({"model": {"width": 20}, "rate": 0.01, "doubled": "${rate}"})
    state = {
        "state_dict": torch.nn.DataParallel(model).state_dict(), "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.01, out=pathlib.PosixPath("/runs")), "cfg": settings, "config": Config(),
        "epoch": np.int64(step), "best": np.float32(0.25), "where": pathlib.Path("/runs/a"),
    }  # fmt: skip
    torch.save(state, path)
    return {"": bare(loaded(path, "state_dict"), "module.")}


def whole_module(run: Path, step: int, model: torch.nn.Module, _: torch.optim.Optimizer) -> Mapping[str, Weights]:
    torch.save(model, run / f"step_{step}.pt")
    return {"": loaded(run / f"step_{step}.pt")}


def legacy(run: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Weights]:
    state = {"net": model.state_dict(), "opt": optimizer.state_dict(), "step": step}
    torch.save(state, run / f"step_{step}.pt", _use_new_zipfile_serialization=False)
    return {"": loaded(run / f"step_{step}.pt", "net")}


def scripted(run: Path, step: int, model: torch.nn.Module, _: torch.optim.Optimizer) -> Mapping[str, Weights]:
    torch.jit.script(model).save(str(run / f"step_{step}.pt"))
    return {"": torch.jit.load(str(run / f"step_{step}.pt")).state_dict()}


def eight_bits(run: Path, step: int, model: torch.nn.Module, _: torch.optim.Optimizer) -> Mapping[str, Weights]:
    """Weights in half precision and in eight bits, in a file that holds nothing else."""
    from safetensors.torch import load_file, save_file

    kinds = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
    floats = {name: each for name, each in model.state_dict().items() if each.is_floating_point()}
    weights = {name: each.to(kinds[place % 4]) for place, (name, each) in enumerate(floats.items())}
    save_file(weights, run / f"step_{step}.safetensors")
    return {"": load_file(run / f"step_{step}.safetensors")}


SAVES: dict[str, Save] = {
    "overwritten": overwritten, "with_objects": with_objects, "whole_module": whole_module, "legacy": legacy,
    "scripted": scripted, "eight_bits": eight_bits,
}  # fmt: skip


def known(run: str, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    """What the files of a run say of progress."""
    if run in ("overwritten", "with_objects", "legacy"):
        told = {"lr_stored": optimizer.param_groups[0]["lr"], "updates": step}
        return told | ({"epoch": step} if run == "with_objects" else {})
    return {}


def main(store: Path, hand: Path) -> None:
    jobs = []
    for run in SAVES:
        (store / run).mkdir()
        model = network()
        jobs.append((run, model, torch.optim.AdamW(model.parameters(), lr=0.01)))
    for step in range(1, STEPS + 1):
        for run, model, optimizer in jobs:
            model(torch.randn(16, 8)).square().mean().backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.5
            networks = SAVES[run](store / run, step, model, optimizer)
            keep(hand, run, step, networks[""], known(run, optimizer, step))
        time.sleep(PAUSE)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
