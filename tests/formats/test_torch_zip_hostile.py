import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from sounding.formats import torch_zip
from sounding.formats.proof import Proof
from sounding.records import State

SMALL = {"model": {"w": torch.arange(40.0), "b": torch.ones(3, dtype=torch.bfloat16)}, "step": 5}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.pt"
    torch.save(SMALL, path)
    return path


def _prove(path: Path) -> Proof:
    return torch_zip.FORMAT.prove(path)


def _rewritten(path: Path, change: dict[str, bytes], *, compress: str = "") -> Path:
    """The same archive with some members' bytes replaced (b"" removes), by Python's own zip writer."""
    out = path.with_name("rewritten.pt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            short = entry.filename.partition("/")[2]
            data = change.get(short, source.read(entry))
            if data:
                kind = zipfile.ZIP_DEFLATED if short == compress else zipfile.ZIP_STORED
                target.writestr(zipfile.ZipInfo(entry.filename), data, kind)
    return out


def test_python_written_archives_are_read_too(small: Path):
    assert _prove(_rewritten(small, {})).state is State.COMPLETE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data.pkl": b""}, "without data.pkl"),
        ({"data/0": b"\0" * 8}, "storage 0 should hold 40 elements, but has 8 bytes"),
        ({"data/1": b""}, "storage 1, which the archive does not have"),
        ({"byteorder": b"big"}, "byte order"),
        ({"data.pkl": b"\x80\x02}q\x00"}, "STOP"),
    ],
)
def test_impossible_members_are_broken(small: Path, change: dict[str, bytes], words: str):
    proof = _prove(_rewritten(small, change))
    assert proof.state is State.BROKEN
    assert words in proof.reason


def test_compressed_members_are_broken(small: Path):
    bomb = _rewritten(small, {"data/0": bytes(50 << 20)}, compress="data/0")
    assert bomb.stat().st_size < 200_000
    proof = _prove(bomb)
    assert proof.state is State.BROKEN
    assert "compressed" in proof.reason


def test_a_damaged_structure_is_found_by_its_checksum(small: Path):
    data = bytearray(small.read_bytes())
    at = data.index(b"X\x05\x00\x00\x00model") + 6
    data[at] = ord("n")
    small.write_bytes(data)
    assert _prove(small).state is State.BROKEN
    assert "checksum" in _prove(small).reason


def test_two_structures_are_broken(small: Path):
    with zipfile.ZipFile(small, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("small/data.pkl", b"\x80\x02}.")
    assert "two members" in _prove(small).reason


def test_a_whole_zip_at_the_end_of_half_a_file_is_pending(small: Path):
    inner = _rewritten(small, {}).read_bytes()
    small.write_bytes(small.read_bytes()[:100] + inner)
    assert _prove(small).state is State.PENDING
    assert "not where its end says" in _prove(small).reason


def test_members_that_overlap_are_broken(small: Path):
    data = bytearray(small.read_bytes())
    with zipfile.ZipFile(small) as archive:
        first = archive.getinfo("small/data/0")
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"small/data/1"))
    data[entry + 42 : entry + 46] = struct.pack("<I", first.header_offset)
    small.write_bytes(data)
    proof = _prove(small)
    assert proof.state is State.BROKEN
    assert "overlap" in proof.reason


def test_members_that_begin_elsewhere_are_broken(small: Path):
    data = bytearray(small.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"small/data/1"))
    data[entry + 42 : entry + 46] = struct.pack("<I", 1)
    small.write_bytes(data)
    assert "does not begin where the directory says" in _prove(small).reason


def test_bytes_after_the_end_are_pending(small: Path):
    with small.open("ab") as file:
        file.write(b"x")
    assert _prove(small).state is State.PENDING


def test_a_directory_that_claims_too_much_is_broken(small: Path):
    data = bytearray(small.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", 0x7FFFFFFF)
    small.write_bytes(data)
    assert _prove(small).state is not State.COMPLETE


def test_other_files_are_broken_with_advice(tmp_path: Path):
    legacy = tmp_path / "legacy.pt"
    legacy.write_bytes(pickle.dumps({"w": [1.0]}))
    assert _prove(legacy).state is State.BROKEN
    assert "a bare pickle" in _prove(legacy).reason
    script = tmp_path / "script.pt"
    torch.save(SMALL, script)
    with zipfile.ZipFile(script, "a") as archive:
        archive.writestr("script/constants.pkl", b"\x80\x02).")
    assert "TorchScript" in _prove(script).reason
    text = tmp_path / "text.pt"
    text.write_text("hello, this is no checkpoint")
    assert _prove(text).state is State.BROKEN


def test_a_pipe_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.pt")
    assert _prove(tmp_path / "pipe.pt").state is State.BROKEN


def test_unreadable_files_are_pending(small: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    proof = _prove(small)
    monkeypatch.undo()
    assert proof == Proof(State.PENDING, "cannot be read: Permission denied")
