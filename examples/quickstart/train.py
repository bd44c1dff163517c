"""Train a small convolutional classifier on scikit-learn's handwritten digits.

An ordinary training script: it knows nothing of sounding, and writes a checkpoint every few updates as most do.

    python train.py --name lr0.1 --lr 0.1
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

HELDOUT = 797  # of 1797 images


class Net(nn.Module):
    """Two convolutions and a linear head, for images of 8 × 8 pixels in one channel."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten digits."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2)
        return self.head(hidden.flatten(1))


def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images and labels, for training and held out."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return (images[HELDOUT:], labels[HELDOUT:]), (images[:HELDOUT], labels[:HELDOUT])


def main() -> None:
    """Train, and save a checkpoint every few updates."""
    parser = argparse.ArgumentParser(description="Train a small classifier of digits.")
    parser.add_argument("--name", default="lr0.1", help="the run's name")
    parser.add_argument("--out", default="runs", help="where runs are kept")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=40, help="updates between checkpoints")
    parser.add_argument("--width", type=int, default=16, help="channels of the first convolution")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    (images, labels), (heldout_images, heldout_labels) = data()
    model = Net(args.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum)
    directory = Path(args.out) / args.name
    directory.mkdir(parents=True, exist_ok=True)

    def save(step: int, epoch: int) -> None:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "epoch": epoch,
            "args": vars(args),
        }
        torch.save(state, directory / f"ckpt_{step}.pt")

    step = 0
    save(step, 0)
    for epoch in range(args.epochs):
        for batch in torch.randperm(len(labels)).split(args.batch):
            loss = functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % args.save_every == 0:
                save(step, epoch)
        with torch.no_grad():
            accuracy = (model(heldout_images).argmax(1) == heldout_labels).float().mean().item()
        print(f"{args.name} epoch {epoch + 1}: loss {loss.item():.3f}, held-out accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
