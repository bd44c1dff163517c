"""A job of Hydra that keeps an average of its weights. `averaged_by_hydra.py STORE HAND`, which starts the job."""

import os
import subprocess
import sys
import time
from pathlib import Path

import hydra
import torch
from by_hand import keep_attributes, keep_networks
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

STEPS, PAUSE = 3, 3.0
ConfigStore.instance().store(
    "job", {"rate": 0.1, "model": {"width": 20, "name": "small"}, "seed": 3, "doubled": "${rate}"}
)


@hydra.main(version_base=None, config_name="job")
def train(settings: DictConfig) -> None:
    torch.manual_seed(settings.seed)
    run, hand = Path.cwd(), Path(os.environ["HAND"])
    model = torch.nn.Sequential(torch.nn.Linear(8, settings.model.width), torch.nn.Linear(settings.model.width, 2))
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.rate, momentum=0.9)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)
        state = {
            "model": model.state_dict(),
            "ema": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "cfg": settings,
        }
        torch.save(state, run / f"step_{step}.pt")
        found = torch.load(run / f"step_{step}.pt", weights_only=False)
        mean = {name.removeprefix("module."): each for name, each in found["ema"].items() if name != "n_averaged"}
        keep_networks(hand, run.name, step, {"raw": found["model"], "averaged": mean}, {"lr_stored": settings.rate})
        time.sleep(PAUSE)
    flat = {"rate": settings.rate, "model.width": settings.model.width, "model.name": settings.model.name, "seed": 3}
    keep_attributes(hand, run.name, flat | {"doubled": OmegaConf.to_container(settings)["doubled"]})


if __name__ == "__main__":
    if "HAND" in os.environ:
        train()
    else:
        store, hand = Path(sys.argv[1]), Path(sys.argv[2])
        place = [f"hydra.run.dir={store}/job", "hydra.job.chdir=true", "model.width=24"]
        subprocess.run([sys.executable, __file__, *place], env=os.environ | {"HAND": str(hand)}, check=True)
