"""accelerate's save_state of two networks, with its own naming and rotation. `accelerate_states.py STORE HAND`."""

import shutil
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from by_hand import keep_networks
from safetensors.torch import load_file

SAVES, PAUSE = 5, 3.0


def main(store: Path, hand: Path) -> None:
    torch.manual_seed(0)
    project = ProjectConfiguration(str(store / "states"), automatic_checkpoint_naming=True, total_limit=3)
    accelerator = Accelerator(cpu=True, project_config=project)
    model = torch.nn.Sequential(torch.nn.Linear(12, 30), torch.nn.BatchNorm1d(30), torch.nn.Linear(30, 5))
    critic = torch.nn.Linear(5, 1)
    optimizer = torch.optim.AdamW([*model.parameters(), *critic.parameters()], lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    model, critic, optimizer, scheduler = accelerator.prepare(model, critic, optimizer, scheduler)
    for save in range(SAVES):
        accelerator.backward(critic(model(torch.randn(16, 12))).square().mean())
        optimizer.step()
        scheduler.step()
        accelerator.save_state()
        copy = hand / "states" / "copies" / str(save)
        shutil.copytree(store / "states" / "checkpoints" / f"checkpoint_{save}", copy)
        networks = {"main": load_file(copy / "model.safetensors"), "critic": load_file(copy / "model_1.safetensors")}
        states = torch.load(copy / "optimizer.bin", weights_only=True)
        progress = {"lr_stored": states["param_groups"][0]["lr"], "updates": float(states["state"][0]["step"])}
        keep_networks(hand, "states", save, networks, progress)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
