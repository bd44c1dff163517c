import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import train

from sounding.recipe import Probe

version = 1


def architecture(checkpoint):
    return train.network()


def probe(run):
    return Probe(train=train.data(1, 256), heldout=train.data(2, 128))


def attributes(checkpoint):
    return {"family": "mlp"}
