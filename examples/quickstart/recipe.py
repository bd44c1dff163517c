"""What a checkpoint of train.py cannot tell: its architecture and the data to measure it on."""

from torch import nn
from train import Net, data

from sounding import Checkpoint, Run
from sounding.recipe import Probe

version = 1  # bump it when the answers below change, and everything that used them is measured again


def architecture(checkpoint: Checkpoint, run: Run) -> nn.Module:
    """The network with the width this run was trained with; sounding loads the weights."""
    return Net(int(run.attributes.get("width", 16)))


def probe(run: Run) -> Probe:
    """The same images for every run: those trained on, and those held out."""
    train, heldout = data()
    return Probe(train=train, heldout=heldout)
