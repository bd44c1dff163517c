"""What jobs free is kept while they run, so that pages are not cleared again, and given back afterwards."""

import json
import platform
import subprocess
import sys

import pytest

_LIKE_A_NETWORK = """
import ctypes, json, resource, sys
from pathlib import Path
from sounding.running.heap import give_back, keep_freed

told = keep_freed() if sys.argv[1] == "kept" else None
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])

def step():
    tensors = [library.malloc(4 << 20) for _ in range(6)]
    for each in tensors:
        ctypes.memset(each, 1, 4 << 20)
    for each in tensors:
        library.free(each)

step()
begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
faults, before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun, resident()
give_back()
print(json.dumps({"told": told, "faults": faults, "returned": before - resident()}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not GNU's")
def test_pages_are_cleared_once_and_returned_at_the_end() -> None:
    default, kept = _measured("default"), _measured("kept")
    pages = 6 * (4 << 20) // 4096
    assert default["faults"] > 5 * pages, "the default returns them at every step"
    assert kept["told"] is True
    assert kept["faults"] < pages
    assert kept["returned"] > pages / 2


def _measured(how: str) -> dict[str, int]:
    command = [sys.executable, "-c", _LIKE_A_NETWORK, how]
    found: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found
