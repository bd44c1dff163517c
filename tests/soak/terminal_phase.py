"""Small networks trained on scikit-learn's digits far beyond 100 % training accuracy, and what they were on the way."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import nn

from sounding.recipe import Probe

TRAINED_ON = 1000  # of 1797 images


@dataclass(frozen=True)
class Setting:
    """SGD with momentum 0.9, batches of 100; the rate is divided by ten after a third and two thirds of the epochs."""

    name: str
    batch_norm: bool
    weight_decay: float
    rate: float
    width: int = 256
    depth: int = 3


SETTINGS = (
    Setting("BatchNorm, decay 5e-3", True, 5e-3, 0.1),
    Setting("no BatchNorm, decay 5e-4", False, 5e-4, 0.05),
)


def digits() -> Probe:
    """The images trained on, and the others."""
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held = order[:TRAINED_ON], order[TRAINED_ON:]
    return Probe(train=(images[train], labels[train]), heldout=(images[held], labels[held]))


def network(setting: Setting) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 64
    for _ in range(setting.depth):
        layers += [nn.Linear(width, setting.width)]
        layers += [nn.BatchNorm1d(setting.width)] if setting.batch_norm else []
        layers += [nn.ReLU()]
        width = setting.width
    return nn.Sequential(*layers, nn.Linear(width, 10))


def trained(setting: Setting, seed: int, epochs: int, at: tuple[int, ...]) -> Iterator[tuple[int, nn.Module, float]]:
    """The epoch, the network and its training accuracy, at these epochs of a training."""
    torch.manual_seed(seed)
    images, labels = digits().train
    module = network(setting)
    optimizer = torch.optim.SGD(module.parameters(), lr=setting.rate, momentum=0.9, weight_decay=setting.weight_decay)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 3, 2 * epochs // 3], 0.1)
    for epoch in range(epochs + 1):
        if epoch in at:
            module.eval()
            with torch.no_grad():
                accuracy = float((module(images).argmax(1) == labels).double().mean())
            yield epoch, module, accuracy
            module.train()
        for batch in torch.randperm(len(labels)).split(100):
            loss = nn.functional.cross_entropy(module(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
