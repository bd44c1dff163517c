"""A checkpoint larger than memory: plugins over the weights go through it in pieces, and never hold it."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from making import checkpoint, sheet, task_on
from record import record

from sounding.formats import safetensors
from sounding.measuring.discovery import load
from sounding.measuring.measure import measure
from sounding.opening import open_checkpoint
from sounding.records import Ending, Job, Reading
from sounding.running.dispatch import Child, Limits, call_and_wait
from sounding.running.gauge import Gauge, anonymous_bytes
from sounding.stamps import stamp_of

COLUMNS = 1 << 13
ROWS = 1 << 11
PLAIN = {"spectral": False}  # a spectral norm takes float32 copies of one matrix, and half a minute here


def sparse(path: Path, tensors: int, rows: int) -> Path:
    """Matrices of bfloat16 zeros, each ending in a one; the file takes hardly any disk."""
    size = rows * COLUMNS * 2
    places = {f"layers.{n}.weight": [n * size, (n + 1) * size] for n in range(tensors)}
    header = {
        name: {"dtype": "BF16", "shape": [rows, COLUMNS], "data_offsets": place} for name, place in places.items()
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, end in places.values():
            file.seek(8 + len(text) + end - 2)
            file.write(struct.pack("<H", 0x3F80))
    return path


def gone_through(path: str, plugin: str, options: Mapping[str, object]) -> tuple[str, str, list[float | None], int]:
    """Measure in this process: how it ended and why, the totals, and the bytes of own memory beyond those before."""
    safetensors.refuse_holes = lambda file, name: None  # a sparse file is all holes
    saved = checkpoint(1, path=path, stamp=stamp_of(path), format="safetensors")
    loaded, before = load(), anonymous_bytes(os.getpid())
    with Gauge() as gauge:
        (result,) = measure(Job(1, saved, (task_on(saved, sheet(plugin), options),)), loaded)
    totals = [found.value for found in result.findings if isinstance(found, Reading) and found.metric == "total"]
    return result.ending.value, result.reason, totals, gauge.peak_bytes - before


def test_a_file_is_gone_through_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = sparse(tmp_path / "ckpt_1.safetensors", 16, ROWS)
    assert path.stat().st_size > 1 << 29 > 1000 * path.stat().st_blocks * 512
    monkeypatch.setattr(safetensors, "refuse_holes", None)  # put back at the end
    ending, reason, total, taken = gone_through(str(path), "weight_norm", PLAIN)
    assert (ending, reason) == ("ok", "")
    assert total == [pytest.approx(16**0.5)]
    assert taken < 150 << 20


def test_the_measure_of_memory_sees_what_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else the test before proved nothing: one tensor taken into memory is seen."""
    path = sparse(tmp_path / "ckpt_1.safetensors", 8, ROWS)
    monkeypatch.setattr(safetensors, "refuse_holes", lambda file, name: None)
    before = anonymous_bytes(os.getpid())
    with open_checkpoint(str(path)) as opened, Gauge() as gauge:
        held = [opened.tensor(ref).float() for ref in opened.networks[""].values()]
        assert sum(each.numel() for each in held) == 2 << 26
    assert gauge.peak_bytes - before > 400 << 20


@pytest.mark.soak
def test_a_worker_with_a_gigabyte_measures_three_and_more(tmp_path: Path):
    path = sparse(tmp_path / "ckpt_1.safetensors", 96, ROWS)
    assert path.stat().st_size > 3 << 30
    child = Child("streaming")
    try:
        asked = "measuring.test_larger_than_memory:gone_through"
        ended = call_and_wait(child, asked, (str(path), "weight_norm", PLAIN), Limits(900.0, 1 << 30))
    finally:
        child.stop()
    assert ended[:3] == (Ending.OK, "", [pytest.approx(96**0.5)])
    record("larger_than_memory", {"file_bytes": path.stat().st_size, "own_memory_bytes": ended[3]})
