"""The gauge: memory of one's own counts, mapped files do not."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

from sounding.running.gauge import Gauge, anonymous_bytes

MIB = 1 << 20


def touched(count: int) -> bytearray:
    """Memory that is really there: every page written to."""
    data = bytearray(count)
    data[:: mmap.PAGESIZE] = b"\1" * len(data[:: mmap.PAGESIZE])
    return data


def test_memory_of_its_own_counts():
    before = anonymous_bytes(os.getpid())
    data = touched(64 * MIB)
    grown = anonymous_bytes(os.getpid()) - before
    assert 60 * MIB < grown < 80 * MIB
    assert len(data) == 64 * MIB


def test_a_mapped_file_does_not_count(tmp_path: Path):
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 64 * MIB)
    before = anonymous_bytes(os.getpid())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == ord("x") * 64 * MIB // mmap.PAGESIZE
        assert anonymous_bytes(os.getpid()) - before < 16 * MIB


def test_a_process_that_has_ended_has_none():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert anonymous_bytes(process.pid) == 0


def test_the_gauge_tells_the_highest_of_its_block():
    before = anonymous_bytes(os.getpid())
    with Gauge() as gauge:
        data = touched(96 * MIB)
        while gauge.peak_bytes < before + 80 * MIB:  # until the watching thread has had its turn
            pass
        del data
    assert before + 80 * MIB < gauge.peak_bytes < before + 160 * MIB


def test_a_block_that_is_over_at_once_is_measured_all_the_same():
    with Gauge() as gauge:
        pass
    assert gauge.peak_bytes > MIB
