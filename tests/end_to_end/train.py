"""A real training job that knows nothing of sounding: an ordinary PyTorch loop that saves checkpoints.

python train.py RUNS_DIRECTORY RUN STEPS EVERY LEARNING_RATE [PAUSE_SECONDS]
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn


def data(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two noisy classes on the line x₀ = x₁."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 8, generator=generator)
    targets = (inputs[:, 0] + 0.3 * torch.randn(count, generator=generator) > inputs[:, 1]).long()
    return inputs, targets


def network() -> nn.Module:
    """The architecture of the job."""
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def main(runs: str, run: str, steps: int, every: int, lr: float, pause: float = 0.0) -> None:
    """Train and save."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    directory = Path(runs) / run
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(f'{{"lr": {lr}, "width": 16}}')
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    inputs, targets = data(1, 256)
    for step in range(1, steps + 1):
        batch = torch.randint(len(inputs), (32,))
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % every == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, directory / f"ckpt_{step}.pt")
            time.sleep(pause)  # stands for the minutes between two checkpoints of a real job


if __name__ == "__main__":
    path, name, *numbers = sys.argv[1:]
    main(path, name, int(numbers[0]), int(numbers[1]), *map(float, numbers[2:]))
