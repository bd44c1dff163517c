import io
import os
import random
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from sounding.formats import format_of, torch_zip
from sounding.formats.proof import Proof
from sounding.records import State, TensorRef

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


def test_a_saved_file_is_complete_without_quiet(small: Path, training_file: Path):
    for path in (small, training_file):
        assert format_of(path) is torch_zip.FORMAT
        assert _prove(path).state is State.COMPLETE
        assert not _prove(path).needs_quiet


def test_a_file_without_checksums_is_complete(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(SMALL, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert _prove(tmp_path / "a.pt").state is State.COMPLETE


def test_python_written_archives_are_read_too(small: Path):
    assert _prove(_rewritten(small, {})).state is State.COMPLETE


def test_every_prefix_is_pending(small: Path):
    whole = small.read_bytes()
    partial = small.with_name("partial.pt")
    for length in range(len(whole)):
        partial.write_bytes(whole[:length])
        proof = _prove(partial)
        assert proof.state is State.PENDING, (length, proof)
    assert "central directory" in proof.reason


def test_a_slow_writer_is_pending_until_its_last_chunk(training_file: Path):
    whole = training_file.read_bytes()
    partial = training_file.with_name("partial.pt")
    states = []
    with partial.open("wb", buffering=0) as writer:
        for start in range(0, len(whole), 997):
            writer.write(whole[start : start + 997])
            states.append(_prove(partial).state)
    assert set(states[:-1]) == {State.PENDING}
    assert states[-1] is State.COMPLETE


def test_a_zip_inside_a_tensor_does_not_end_the_file(small: Path, tmp_path: Path):
    inner = torch.frombuffer(bytearray(small.read_bytes()), dtype=torch.uint8)
    torch.save({"w": torch.ones(5), "inner": inner}, tmp_path / "outer.pt")
    whole = (tmp_path / "outer.pt").read_bytes()
    end = whole.index(small.read_bytes()) + len(inner)
    (tmp_path / "cut.pt").write_bytes(whole[:end])
    assert _prove(tmp_path / "cut.pt").state is State.PENDING


def test_reserved_space_is_pending(tmp_path: Path, small: Path):
    path = tmp_path / "reserved.pt"
    with path.open("wb") as file:
        file.truncate(1 << 20)
    assert _prove(path).state is State.PENDING
    path.write_bytes(bytes(5000))
    assert _prove(path).state is State.PENDING


def test_a_hole_is_pending(tmp_path: Path):
    path = tmp_path / "hole.pt"
    torch.save({"w": torch.zeros(1 << 18)}, path)
    whole = path.read_bytes()
    sparse = tmp_path / "sparse.pt"
    with sparse.open("wb") as file:
        file.write(whole[:4096])
        file.seek(len(whole) - 8192)
        file.write(whole[-8192:])
    with sparse.open("rb") as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == len(whole):
            pytest.skip("this file system does not know its holes")
    assert _prove(sparse).state is State.PENDING
    assert "hole" in _prove(sparse).reason


def test_random_mutations_never_raise_and_never_leave_the_file(training_file: Path):
    whole = training_file.read_bytes()
    victim = training_file.with_name("victim.pt")
    generator = random.Random(7)
    states = []
    for _ in range(700):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 3, 30))):
            # Half of the changes hit the structure at the front, the others anything.
            limit = 30_000 if generator.random() < 0.5 else len(data)
            data[generator.randrange(min(limit, len(data)))] = generator.randrange(256)
        victim.write_bytes(data)
        states.append(_prove(victim).state)
        if states[-1] is State.COMPLETE:
            _all_inside(torch_zip.read(victim), len(data))
    assert {State.BROKEN, State.COMPLETE} <= set(states)


def _all_inside(tree: object, size: int) -> None:
    waiting, seen = [tree], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, TensorRef):
            assert item.storage_start + item.storage_bytes <= size
        elif id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ())


def test_random_truncations_are_never_complete(training_file: Path):
    whole = training_file.read_bytes()
    victim = training_file.with_name("victim.pt")
    generator = random.Random(3)
    for _ in range(300):
        kept = generator.randrange(len(whole))
        fill = bytes(len(whole) - kept) if generator.random() < 0.5 else b""
        victim.write_bytes(whole[:kept] + fill)
        if victim.read_bytes() != whole:  # the last bytes of a whole file may be zeros themselves
            assert _prove(victim).state is not State.COMPLETE, (kept, len(fill))


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
    torch.save(SMALL, legacy, _use_new_zipfile_serialization=False)
    assert _prove(legacy).state is State.BROKEN
    assert "before torch's zip format" in _prove(legacy).reason
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


def test_the_fingerprint_is_of_the_content_alone(small: Path, tmp_path: Path):
    copy = tmp_path / "elsewhere.pt"
    shutil.copy(small, copy)
    os.utime(copy, ns=(1, 1))
    again = tmp_path / "again_with_another_name.pt"
    torch.save(SMALL, again)
    prints = {torch_zip.fingerprint(path) for path in (small, copy, again)}
    assert len(prints) == 1
    assert len(prints.pop()) == 32


@pytest.mark.parametrize("checksums", [True, False])
def test_the_fingerprint_changes_with_any_tensor(small: Path, tmp_path: Path, checksums: bool):
    prints = {torch_zip.fingerprint(small)}
    torch.serialization.set_crc32_options(checksums)
    try:
        for key, value in (("w", torch.arange(1.0, 41.0)), ("b", torch.zeros(3, dtype=torch.bfloat16))):
            torch.save({"model": {**SMALL["model"], key: value}, "step": 5}, tmp_path / "x.pt")  # type: ignore[dict-item]
            prints.add(torch_zip.fingerprint(tmp_path / "x.pt"))
        torch.save({**SMALL, "step": 6}, tmp_path / "x.pt")
        prints.add(torch_zip.fingerprint(tmp_path / "x.pt"))
    finally:
        torch.serialization.set_crc32_options(True)
    assert len(prints) == 4


def test_many_members_need_the_wide_directory(tmp_path: Path):
    path = tmp_path / "many.pt"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("many/data.pkl", b"\x80\x02}.")
        for i in range(65_600):
            archive.writestr(zipfile.ZipInfo(f"many/data/{i}"), b"")
    path.write_bytes(buffer.getvalue())
    assert b"PK\x06\x06" in path.read_bytes()[-200:]
    assert _prove(path).state is State.COMPLETE
    path.write_bytes(buffer.getvalue()[:-30])
    assert _prove(path).state is State.PENDING
