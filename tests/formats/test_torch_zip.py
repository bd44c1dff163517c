import io
import os
import random
import shutil
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
    for _ in range(300):
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
