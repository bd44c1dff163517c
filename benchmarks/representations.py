"""Which heads are found in networks of torchvision, timm and transformers, and what torchmetrics computes too.

The packages come from an environment of their own. Not a matter of speed, nor of `make bench`: it shows that what the
tests show on networks made alike holds for the real ones.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from peers.environments import python_with, run
from record import record

PEERS = ("torch==2.13.0", "torchvision==0.28.0", "timm==1.0.31", "transformers==5.23.0", "torchmetrics==1.9.0",
         "numpy==2.4.6", "scipy==1.17.1")  # fmt: skip
SCRIPT = Path(__file__).parent / "peers" / "representation_peers.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="write the figures to benchmarks/results")
    options = parser.parse_args()
    (packages,) = Path(python_with(*PEERS)).parents[1].glob("lib/python*/site-packages")
    os.environ["PYTHONPATH"] = str(packages)
    heads = json.loads(run(sys.executable, SCRIPT, ["heads"]))
    for name, found in heads.items():
        print(f"{name:<56}{found['name'] + ': ' + found['how'] if found['verified'] else found['told']}")
    verified = sum(found["verified"] for found in heads.values())
    print(f"{verified} of {len(heads)} found and proven")
    shared = json.loads(run(sys.executable, SCRIPT, ["torchmetrics"]))
    print(shared)
    if options.keep:
        record("representations", {"peers": PEERS[1:5], "verified": verified, "heads": heads, "torchmetrics": shared})


if __name__ == "__main__":
    main()
