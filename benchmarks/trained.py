"""Weights of small networks trained here: a language model of characters, and a residual network of handwritten digits.

Each takes a minute or two of one core and is kept under the system's temporary directory. Only weight matrices and
kernels are saved. Random matrices have the tails one gives them; training makes its own.
"""

import sysconfig
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

PLACE = Path(tempfile.gettempdir()) / "sounding-weights"
CONTEXT, WIDTH, LAYERS, HEADS, LETTERS = 128, 192, 4, 6, 128


def trained(name: str) -> Path:
    """The file with the weights of the network of that name, trained first if it is not there."""
    path = PLACE / f"{name}.pt"
    if not path.exists():
        torch.manual_seed(0)
        network = {"char_gpt": char_gpt, "digits_resnet": digits_resnet}[name]()
        weights = {key.replace(".", "_"): each.detach() for key, each in network.named_parameters()}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: each.clone() for key, each in weights.items() if each.ndim in (2, 4)}, path)
    return path


class Characters(nn.Module):
    """A decoder of characters: pre-norm blocks and a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(LETTERS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        block = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, LAYERS, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, LETTERS)

    def forward(self, text: Tensor) -> Tensor:
        """Logits of the character that follows each."""
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        hidden = self.letters(text) + self.places.weight[: text.shape[1]]
        return self.head(self.norm(self.blocks(hidden, mask=mask, is_causal=True)))


def char_gpt(updates: int = 200, batch: int = 8) -> nn.Module:
    """Trained on the sources of Python's own library."""
    text, network = sources(), Characters()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.1)
    places = torch.arange(CONTEXT + 1)
    for update in range(updates):
        window = text[torch.randint(len(text) - CONTEXT, (batch, 1)) + places]
        loss = functional.cross_entropy(network(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 50 == 49:
            print(f"char_gpt: update {update + 1}, loss {float(loss):.3f}")
    return network


def sources(size: int = 4_000_000) -> Tensor:
    """Text of the standard library, in the order of its files' names."""
    found = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found += bytes(letter for letter in path.read_bytes() if letter < LETTERS)
        if len(found) > size:
            break
    return torch.frombuffer(found, dtype=torch.uint8).long()


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """The shortcut plus what two convolutions make of it."""
        hidden = functional.relu(self.norm1(self.conv1(images)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images))


def digits_resnet(epochs: int = 15, batch: int = 50) -> nn.Module:
    """Trained on scikit-learn's digits."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target)
    blocks = [Residual(1, 32, 1), Residual(32, 64, 2), Residual(64, 128, 2)]
    network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        wrong = 0
        for some in torch.randperm(len(labels)).split(batch):
            logits = network(images[some])
            optimizer.zero_grad()
            functional.cross_entropy(logits, labels[some]).backward()
            optimizer.step()
            wrong += int((logits.argmax(1) != labels[some]).sum())
        print(f"digits_resnet: epoch {epoch + 1}, {wrong / len(labels):.2%} wrong")
    return network
