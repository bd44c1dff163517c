"""Stamps: equal for untouched files, different after every change, and never following links out of a directory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sounding import stamps
from sounding.stamps import stamp_of


def test_a_file_has_one_stamp_of_its_stat(tmp_path: Path):
    file = tmp_path / "ckpt.pt"
    file.write_bytes(b"12345")
    (found,) = stamp_of(file)
    status = file.stat()
    assert (found.path, found.inode, found.size, found.mtime_ns) == ("", status.st_ino, 5, status.st_mtime_ns)


@pytest.mark.parametrize("change", ["size", "time", "replacement"])
def test_every_change_of_a_file_changes_its_stamp(tmp_path: Path, change: str):
    file = tmp_path / "ckpt.pt"
    file.write_bytes(b"12345")
    os.utime(file, ns=(10**18, 10**18))
    before = stamp_of(file)
    if change == "size":
        file.write_bytes(b"123456")
        os.utime(file, ns=(10**18, 10**18))
    elif change == "time":
        os.utime(file, ns=(10**18, 10**18 + 1))
    else:
        other = tmp_path / "other"
        other.write_bytes(b"54321")
        os.utime(other, ns=(10**18, 10**18))
        other.replace(file)
    assert stamp_of(file) != before


def test_a_directory_is_stamped_by_its_files_down_to_the_third_level(tmp_path: Path):
    for name in ("b", "a", "one/c", "one/two/d", "one/two/three/e", "one/two/three/four/f"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = stamp_of(tmp_path)
    assert [file.path for file in found] == ["a", "b", "one/c", "one/two/d", "one/two/three/e"]
    assert [file.size for file in found] == [len(file.path) for file in found]


def test_links_inside_a_directory_count_as_themselves(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"x" * 1000)
    inside = tmp_path / "ckpt"
    inside.mkdir()
    (inside / "weights").symlink_to(outside)
    (inside / "round").symlink_to(inside)
    found = {file.path: file for file in stamp_of(inside)}
    assert found.keys() == {"weights", "round"}
    assert found["weights"].inode != outside.stat().st_ino


def test_a_path_that_is_gone_raises(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        stamp_of(tmp_path / "ckpt")


def test_a_file_that_vanishes_from_a_directory_during_the_look_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "weights").write_bytes(b"1")
    (tmp_path / "weights.tmp").write_bytes(b"1")
    real = os.scandir

    @contextlib.contextmanager
    def scandir_then_delete(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        with real(path) as entries:
            listed = list(entries)
        (tmp_path / "weights.tmp").unlink()
        yield listed

    monkeypatch.setattr(stamps.os, "scandir", scandir_then_delete)
    assert [file.path for file in stamp_of(tmp_path)] == ["weights"]
