"""Three small networks, briefly and deterministically trained, whose curvature is measured; torch is all they need."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

NAMES = ("mlp", "resnet20", "gpt")
_TOKENS, _CONTEXT = 96, 64


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode and the examples that its loss is the mean over."""

    model: nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross-entropy; of a language model over all tokens."""
        return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


class Block(nn.Module):
    """Two convolutions and a way round them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        step = after // before
        self.conv1 = nn.Conv2d(before, after, 3, step, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.round = nn.Sequential(nn.Conv2d(before, after, 1, step, bias=False), nn.BatchNorm2d(after))
        self.same = before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From one layer to the next."""
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(inner + (x if self.same else self.round(x)))


class Attention(nn.Module):
    """Attention of the past, in elementary operations: the peers cannot differentiate fused ones twice."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.register_buffer("past", torch.ones(_CONTEXT, _CONTEXT).tril().bool(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From one layer to the next."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-1, -2)) / (width // self.heads) ** 0.5
        mixed = torch.softmax(scores.masked_fill(~self.past, float("-inf")), -1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Layer(nn.Module):
    """Attention and a perceptron, each after a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 4)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From one layer to the next."""
        x = x + self.attention(self.norm1(x))
        return x + self.outer(nn.functional.gelu(self.inner(self.norm2(x))))


class Gpt(nn.Module):
    """A small decoder; the head is its own."""

    def __init__(self, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(_TOKENS, width), nn.Embedding(_CONTEXT, width)
        self.layers = nn.Sequential(*(Layer(width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, _TOKENS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From one layer to the next."""
        places = self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(self.layers(self.tokens(x) + places)))


def network(name: str) -> nn.Module:
    """The architecture, built empty."""
    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 280), nn.Tanh(), nn.Linear(280, 280), nn.Tanh(), nn.Linear(280, 10))
    if name == "gpt":
        return Gpt()
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(before, after) for before, after in pairwise(widths)]
    for block in blocks:
        if block.same:
            del block.round
    first = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def make(name: str, path: Path) -> None:
    """Train it as given by its seed, and save it with the examples measured on."""
    torch.manual_seed(0)
    model = network(name)
    inputs, targets = _text() if name == "gpt" else _digits(images=name == "resnet20")
    batch, steps, rate = {"mlp": (64, 300, 0.05), "resnet20": (64, 120, 0.05), "gpt": (8, 60, 0.05)}[name]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    subject = Subject(model, inputs, targets)
    for _ in range(steps):
        chosen = torch.randint(0, len(inputs), (batch,))
        optimizer.zero_grad()
        subject.loss(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    kept = {"mlp": 1024, "resnet20": 128, "gpt": 8}[name]
    torch.save({"name": name, "state": model.state_dict(), "inputs": inputs[:kept], "targets": targets[:kept]}, path)


def opened(path: str, dtype: torch.dtype = torch.float32) -> Subject:
    """A saved subject."""
    saved = torch.load(path)
    model = network(saved["name"])
    model.load_state_dict(saved["state"])
    inputs = saved["inputs"].to(dtype) if saved["inputs"].is_floating_point() else saved["inputs"]
    return Subject(model.to(dtype).eval(), inputs, saved["targets"])


def warmed() -> Subject:
    """A subject on which a program can load what it loads once."""
    torch.manual_seed(0)
    return Subject(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(9, 6), torch.arange(9) % 3)


def _digits(*, images: bool) -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits  # only where subjects are made

    data, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(data, dtype=torch.float32) / 16
    if images:
        inputs = nn.functional.interpolate(inputs.view(-1, 1, 8, 8), size=16, mode="bilinear")
    return inputs, torch.tensor(labels)


def _text(sequences: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of a Markov chain in which each token is followed by few."""
    following = torch.randint(0, _TOKENS, (_TOKENS, 4))
    chain = torch.zeros(sequences, _CONTEXT + 1, dtype=torch.int64)
    chain[:, 0] = torch.randint(0, _TOKENS, (sequences,))
    for place in range(_CONTEXT):
        chosen = torch.multinomial(torch.tensor([0.5, 0.25, 0.15, 0.1]), sequences, replacement=True)
        chain[:, place + 1] = following[chain[:, place], chosen]
    return chain[:, :-1].contiguous(), chain[:, 1:].contiguous()


def timed(measure: Callable[[Subject], dict[str, object]], path: str) -> dict[str, object]:
    """What a program finds, its CPU seconds, and its peak memory above what it had before; after a first small run."""
    torch.set_num_threads(1)
    measure(warmed())
    subject = opened(path)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _mib("VmRSS"), time.process_time()
    found = measure(subject)
    return {**found, "cpu_s": time.process_time() - start, "peak_mib": _mib("VmHWM") - before}


def _mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 1024
