"""Train a network whose weights before its head are scale invariant on scikit-learn's digits, far beyond convergence.

Two linear layers, each before a BatchNorm without scale and shift; the head is drawn at random and kept. So the loss is
a function of directions alone, and what happens to it is between steps and weight decay.

    python batch_norm_digits.py STORE periodic --decay 0.003 --updates 20000
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HELDOUT, HEAD_SCALE = 64, 797, 10.0


def network(seed: int) -> nn.Sequential:
    """Scale-invariant layers and a head that is not trained, large enough for small losses."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(64, WIDTH, bias=False), nn.BatchNorm1d(WIDTH, affine=False), nn.ReLU(),
        nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH, affine=False), nn.ReLU(),
        nn.Linear(WIDTH, 10),
    )  # fmt: skip
    for parameter in net[-1].parameters():
        parameter.requires_grad_(False).mul_(HEAD_SCALE)
    return net


def data() -> tuple[Tensor, Tensor]:
    """A thousand images as vectors, and their labels."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))[HELDOUT:]
    return torch.tensor(digits.data, dtype=torch.float32)[order] / 16, torch.tensor(digits.target)[order]


class Writer:
    """Checkpoints of a run, and of a twin in bfloat16 where one is wanted; the loss of every update in a table."""

    def __init__(self, store: Path, run: str, twin: bool) -> None:
        self.places = [(store / run, None), *([(store / f"{run}_bf16", torch.bfloat16)] if twin else [])]
        for place, _ in self.places:
            place.mkdir(parents=True)
        self._file = (store / run / "log.csv").open("w", newline="")
        self._log = csv.writer(self._file)
        self._log.writerow(["step", "loss"])

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def log(self, step: int, loss: float) -> None:
        """One row."""
        self._log.writerow([step, f"{loss:.6g}"])

    def save(self, net: nn.Module, optimizer: Any, step: int) -> None:
        """One checkpoint in each place."""
        self._file.flush()
        for place, dtype in self.places:
            model = {
                name: each.to(dtype) if each.is_floating_point() else each for name, each in net.state_dict().items()
            }
            tree = {"model": model, "optimizer": optimizer.state_dict(), "global_step": step}
            torch.save(tree, place / f"step_{step}.pt")


def train(arguments: argparse.Namespace) -> None:
    """Train and save."""
    net = network(arguments.seed)
    weights = [each for each in net.parameters() if each.requires_grad]
    settings = {"lr": arguments.lr, "weight_decay": arguments.decay}
    if arguments.optimizer == "sgd":
        optimizer: Any = torch.optim.SGD(weights, momentum=arguments.momentum, **settings)
    else:
        optimizer = {"adamw": torch.optim.AdamW, "muon": torch.optim.Muon}[arguments.optimizer](weights, **settings)
    images, labels = data()
    wrong = torch.rand(len(labels)) < arguments.wrong
    labels = torch.where(wrong, torch.randint(0, 10, labels.shape), labels)
    if arguments.sphere:
        _project(weights)
    with Writer(Path(arguments.store), arguments.run, arguments.twin) as writer:
        _updates(arguments, net, optimizer, images, labels, writer)


def _updates(
    arguments: argparse.Namespace, net: nn.Module, optimizer: Any, images: Tensor, labels: Tensor, writer: Writer
) -> None:
    weights = [each for each in net.parameters() if each.requires_grad]
    step = 0
    writer.save(net, optimizer, step)
    while step < arguments.updates:
        for batch in torch.randperm(len(labels)).split(arguments.batch):
            loss = functional.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if arguments.sphere:
                _project(weights)
            writer.log(step, loss.item())
            step += 1
            if step % arguments.every == 0 or step > arguments.updates - arguments.dense:
                writer.save(net, optimizer, step)
            if step == arguments.updates:
                break


@torch.no_grad()
def _project(weights: list[nn.Parameter]) -> None:
    """To unit norm in all, so that the learning rate is the effective one."""
    norm = float(sum(each.double().square().sum() for each in weights)) ** 0.5
    for each in weights:
        each.div_(norm)


def main(given: list[str] | None = None) -> None:
    """Read the arguments, and train."""
    parser = argparse.ArgumentParser(description="Train scale-invariant layers on digits.")
    parser.add_argument("store", help="where runs are kept")
    parser.add_argument("run", help="the run's name")
    parser.add_argument("--optimizer", choices=["sgd", "adamw", "muon"], default="sgd")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--wrong", type=float, default=0.0, help="share of labels drawn anew, at random")
    parser.add_argument("--sphere", action="store_true", help="keep the norm at 1: a fixed effective learning rate")
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=100, help="updates between checkpoints")
    parser.add_argument("--dense", type=int, default=0, help="last updates that are all saved")
    parser.add_argument("--twin", action="store_true", help="save a twin run in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args(given))


if __name__ == "__main__":
    main()
