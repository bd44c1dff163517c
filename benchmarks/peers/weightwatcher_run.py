"""WeightWatcher over a saved state dict, with its default settings: JSON on the last line of standard output."""

import json
import logging
import sys
import time
import warnings

import torch

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

import weightwatcher  # noqa: E402  warnings must be off before


def network(path: str) -> torch.nn.Module:
    """Layers that hold the weights, as the package wants them."""
    layers = torch.nn.Sequential()
    for name, weight in torch.load(path).items():
        if weight.ndim == 4:
            layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], bias=False)
        else:
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(weight)
        layers.add_module(name, layer)
    return layers


def main() -> None:
    model = network(sys.argv[1])
    start = time.process_time()
    details = weightwatcher.WeightWatcher(model=model).analyze()
    spent = time.process_time() - start
    alphas = dict(zip(details["longname"], details["alpha"], strict=True))
    print(json.dumps({"cpu_s": spent, "alpha": alphas}))


if __name__ == "__main__":
    main()
