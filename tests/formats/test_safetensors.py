import json
import os
import random
import struct
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sounding.formats import format_of
from sounding.formats import safetensors as ours
from sounding.records import Opaque, State, TensorRef


def _write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def _entry(dtype: str = "F32", shape: object = (2,), start: int = 0, end: int = 8) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_saved_file_is_complete_but_needs_quiet(safetensors_file: Path):
    assert format_of(safetensors_file) is ours.FORMAT
    proof = ours.FORMAT.prove(safetensors_file)
    assert proof.state is State.COMPLETE
    assert proof.needs_quiet
    assert "10 tensors" in proof.reason


def test_every_prefix_is_pending_and_says_how_far_it_is(safetensors_file: Path):
    whole = safetensors_file.read_bytes()
    partial = safetensors_file.with_name("partial.safetensors")
    for length in range(len(whole)):
        partial.write_bytes(whole[:length])
        proof = ours.FORMAT.prove(partial)
        assert proof.state is State.PENDING, (length, proof)
    assert proof.reason == f"{len(whole) - 1} bytes of {len(whole)} bytes written"


def test_space_reserved_before_writing_is_pending(safetensors_file: Path):
    whole = safetensors_file.read_bytes()
    partial = safetensors_file.with_name("partial.safetensors")
    partial.write_bytes(bytes(len(whole)))
    assert ours.FORMAT.prove(partial).state is State.PENDING
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", 50))
        file.truncate(1 << 20)
    assert ours.FORMAT.prove(partial).state is State.PENDING


def test_a_header_before_a_hole_is_pending(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"w": torch.ones(1 << 18)}, path)
    whole = path.read_bytes()
    with path.open("wb") as file:
        file.write(whole[:4096])
        file.truncate(len(whole))
    with path.open("rb") as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == len(whole):
            pytest.skip("this file system does not know its holes")
    proof = ours.FORMAT.prove(path)
    assert proof.state is State.PENDING
    assert "hole" in proof.reason


def test_random_mutations_never_raise(safetensors_file: Path):
    whole = safetensors_file.read_bytes()
    victim = safetensors_file.with_name("victim.safetensors")
    generator = random.Random(11)
    states = []
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 3, 30))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        victim.write_bytes(data[: generator.choice((len(data), generator.randrange(len(data))))])
        states.append(ours.FORMAT.prove(victim).state)
        if states[-1] is State.COMPLETE:
            refs = [ref for ref in ours.read(victim).values() if isinstance(ref, TensorRef)]
            assert all(ref.storage_start + ref.storage_bytes <= len(data) for ref in refs)
    assert set(states) == {State.COMPLETE, State.PENDING, State.BROKEN}


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        ({"w": _entry()}, bytes(9), "1 bytes more"),
        ({"w": _entry(start=1, end=9)}, bytes(9), "touch"),
        ({"a": _entry(), "b": _entry(start=4, end=12)}, bytes(12), "touch"),
        ({"w": _entry(shape=(3,))}, bytes(8), "does not fill"),
        ({"w": _entry(shape=(2**61, 2**61))}, bytes(8), "does not fill"),
        ({"w": _entry(start=8, end=0)}, bytes(8), "does not fill"),
        ({"w": _entry(shape="x")}, bytes(8), "lacks dtype"),
        ({"w": _entry(shape=[1] * 65)}, bytes(8), "lacks dtype"),
        ({"w": _entry(shape=[-2, -1])}, bytes(8), "lacks dtype"),
        ({"w": _entry(shape=[True, 2])}, bytes(8), "lacks dtype"),
        ({"w": {"dtype": "F32"}}, bytes(8), "lacks dtype"),
        ({"w": 5}, b"", "not an object"),
        ([1], b"", "not a JSON object"),
        (b"{nonsense}", b"", "not JSON"),
        (b"\xff\xfe{}", b"", "not JSON"),
        (b"[" * 200_000 + b"]" * 200_000, b"", "not JSON"),
    ],
)
def test_impossible_headers_are_broken_at_once(tmp_path: Path, header: object, data: bytes, words: str):
    path = _write(tmp_path / "a.safetensors", header, data)
    began = time.perf_counter()
    proof = ours.FORMAT.prove(path)
    assert proof.state is State.BROKEN
    assert words in proof.reason
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("length", [2**62, 2**64 - 1, 100_000_001])
def test_an_absurd_header_length_is_broken(tmp_path: Path, length: int):
    path = _write(tmp_path / "a.safetensors", b"{}", length=length)
    assert ours.FORMAT.prove(path).state is State.BROKEN
    assert str(length) in ours.FORMAT.prove(path).reason


def test_types_that_torch_lacks_stay_opaque(tmp_path: Path):
    path = _write(tmp_path / "a.safetensors", {"w": _entry("F6_E2M3", (4,), 0, 3)}, bytes(3))
    assert ours.FORMAT.prove(path).state is State.COMPLETE
    assert isinstance(ours.read(path)["w"], Opaque)


def test_notes_are_kept(safetensors_file: Path):
    assert ours.read(safetensors_file)["__metadata__"] == {"step": "10", "format": "pt"}


def test_the_fingerprint_is_of_the_content_alone(tmp_path: Path):
    def fingerprint(value: float, place: int, name: str = "a") -> str:
        tensor = torch.zeros(100_000)
        tensor[place] = value
        safetensors.torch.save_file({"w": tensor}, tmp_path / f"{name}.safetensors")
        return ours.fingerprint(tmp_path / f"{name}.safetensors")

    assert fingerprint(1.0, 0) == fingerprint(1.0, 0, "b")
    assert len({fingerprint(1.0, place) for place in (0, 50_000, 99_999)} | {fingerprint(0.0, 0)}) == 4
