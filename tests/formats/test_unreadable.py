"""Empty files and missing permissions: the right verdict with its reason, and never an error."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from sounding.records import Examination, Sighting, State
from sounding.seeing.examine import examine
from sounding.stamps import stamp_of

from formats import deepspeed_layout  # isort: skip

_NOBODY = 65534


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Without the privileges of root, to whom no permission is ever missing."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that everybody can reach."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return tmp_path


def _torch(place: Path) -> Path:
    torch.save({"model": {"w": torch.ones(3)}, "step": 1}, place / "a.pt")
    return place / "a.pt"


def _legacy(place: Path) -> Path:
    torch.save({"model": {"w": torch.ones(3)}}, place / "b.pt", _use_new_zipfile_serialization=False)
    return place / "b.pt"


@pytest.mark.filterwarnings("ignore")
def _distributed(place: Path) -> Path:
    dcp.save({"model": {"w": torch.ones(3)}}, checkpoint_id=place / "dcp", no_dist=True)
    return place / "dcp"


def _deepspeed(place: Path) -> Path:
    return deepspeed_layout.write(place / "ds", 30, 3, 2)[0]


@pytest.fixture(params=["torch", "legacy", "safetensors", "trainer", "shards", "distributed", "deepspeed"])
def checkpoint(
    request: pytest.FixtureRequest, place: Path, safetensors_file: Path, trainer_directory: Callable[..., Path]
) -> Path:
    """A whole checkpoint of each format."""
    made: dict[str, Callable[[], Path]] = {
        "torch": lambda: _torch(place), "legacy": lambda: _legacy(place), "safetensors": lambda: safetensors_file,
        "trainer": lambda: trainer_directory(30), "shards": lambda: trainer_directory(40, 3),
        "distributed": lambda: _distributed(place), "deepspeed": lambda: _deepspeed(place),
    }  # fmt: skip
    return made[request.param]()


def _files(checkpoint: Path) -> list[Path]:
    return sorted(file for file in checkpoint.rglob("*") if file.is_file()) if checkpoint.is_dir() else [checkpoint]


def _examined(path: Path) -> Examination:
    return examine(Sighting("runs", "a", str(path), 5, {}, stamp_of(path)))


_BESIDE = ("config.json", "rng_state.pth", "training_args.bin")  # nothing is measured from these


@pytest.mark.filterwarnings("ignore")
def test_an_empty_file_is_pending(checkpoint: Path):
    assert _examined(checkpoint).verdict.state is State.COMPLETE
    for file in _files(checkpoint):
        content = file.read_bytes()
        file.write_bytes(b"")
        verdict = _examined(checkpoint).verdict
        assert verdict.state is State.PENDING or file.name in _BESIDE, (file.name, verdict)
        assert verdict.reason
        file.write_bytes(content)


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_may_not_be_read_is_pending_and_says_so(checkpoint: Path):
    for file in _files(checkpoint):
        file.chmod(0o644)  # safetensors files are written for their owner alone
    for file in _files(checkpoint):
        file.chmod(0o000)
        with _as_nobody():
            verdict = _examined(checkpoint).verdict
        assert verdict.state is State.PENDING or file.name in _BESIDE, (file.name, verdict)
        assert "Permission denied" in verdict.reason or file.name in _BESIDE, (file.name, verdict)
        file.chmod(0o644)
        with _as_nobody():
            assert _examined(checkpoint).verdict.state is State.COMPLETE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize("checkpoint", ["trainer", "shards", "distributed", "deepspeed"], indirect=True)
def test_a_directory_that_may_not_be_entered_is_pending_and_says_so(checkpoint: Path, mode: int):
    stamp = stamp_of(checkpoint)
    checkpoint.chmod(mode)
    try:
        with _as_nobody():
            verdict = examine(Sighting("runs", "a", str(checkpoint), 5, {}, stamp)).verdict
    finally:
        checkpoint.chmod(0o755)
    assert verdict.state is State.PENDING
    assert "Permission denied" in verdict.reason
