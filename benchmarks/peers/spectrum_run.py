"""The plugin `weight_spectrum` over a saved state dict, in WeightWatcher's mode: JSON on standard output."""

import json
import sys
import time
from datetime import UTC, datetime

from sounding import Checkpoint, Reading
from sounding.opening import open_checkpoint
from sounding.passes.weights import network_weights
from sounding_plugins.weight_spectrum import weight_spectrum


def main() -> None:
    path, single = sys.argv[1], sys.argv[2] == "single"
    checkpoint = Checkpoint("", "", "", 0, path, "", "", (), 0, datetime.now(UTC))
    start = time.process_time()
    alphas = {}
    with open_checkpoint(path) as opened:
        weights = network_weights(opened, "")
        for found in weight_spectrum(weights, checkpoint, mode="weightwatcher", single_precision=single, smallest=2):
            if isinstance(found, Reading) and found.metric == "alpha":
                alphas[found.part] = found.value
        weights.forget()
    spent = time.process_time() - start
    print(json.dumps({"cpu_s": spent, "alpha": alphas}))


if __name__ == "__main__":
    main()
