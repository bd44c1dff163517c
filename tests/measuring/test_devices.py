"""A GPU is used only with head-room; what does not fit says what would. No GPU is needed but for the last tests."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from making import checkpoint, ended, sheet, task_on

from sounding.errors import SoundingError
from sounding.measuring.devices import (
    NoRoom,
    Room,
    choose_device,
    explained,
    look_at_cuda,
    release,
    what_would_fit,
)
from sounding.records import Ending

GIB = 1 << 30
BUSY = "GPU 0: CUDA out of memory. Tried to allocate 2.00 GiB."


def looks(free: float, total: float = 80.0, asked: list[str] | None = None):
    """A look at a GPU with so many GiB."""

    def look(device: str) -> Room:
        if asked is not None:
            asked.append(device)
        return Room(int(free * GIB), int(total * GIB))

    return look


@pytest.mark.parametrize(
    ("free", "size", "headroom", "device"),
    [
        (80, 1, 0.1, "cuda"),  # needs 4 and leaves 8
        (12, 1, 0.1, "cuda"),  # exactly
        (11.99, 1, 0.1, "cpu"),
        (4, 1, 0.0, "cuda"),
        (3.99, 1, 0.0, "cpu"),
        (9, 0, 0.1, "cuda"),  # the smallest job needs 1
        (8.99, 0, 0.1, "cpu"),
        (47.9, 2, 0.5, "cpu"),
        (48, 2, 0.5, "cuda"),
    ],
)
def test_auto_takes_a_gpu_only_with_room_for_the_job_and_for_others(
    free: float, size: float, headroom: float, device: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto", int(size * GIB), headroom, looks(free)) == device


def test_a_gpu_that_was_named_is_waited_for_and_never_replaced():
    asked: list[str] = []
    assert choose_device("cuda:1", GIB, 0.1, looks(12, asked=asked)) == "cuda:1"
    assert asked == ["cuda:1"]
    with pytest.raises(NoRoom) as crowded:
        choose_device("cuda:1", GIB, 0.1, looks(5.5))
    for words in ("cuda:1 has 5.5 GiB of 80.0 GiB free", "needs 4.0 GiB", "10% are left to others (gpu_headroom)"):
        assert words in str(crowded.value)


def test_where_there_is_no_gpu_auto_does_without_and_a_name_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto", GIB, 0.1, lambda device: None) == "cpu"
    with pytest.raises(SoundingError, match='device = "cuda:3"') as missing:
        choose_device("cuda:3", GIB, 0.1, lambda device: None)
    assert not isinstance(missing.value, NoRoom), "waiting would not help"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_are_not_looked_at(device: str):
    assert choose_device(device, 1 << 50, 0.9, lambda device: pytest.fail("looked")) == device


def test_a_gpu_too_full_to_be_asked_has_nothing_free(monkeypatch: pytest.MonkeyPatch):
    def full(index: int | None) -> tuple[int, int]:
        raise torch.OutOfMemoryError(BUSY)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", full)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=80 * GIB))
    assert look_at_cuda("cuda") == Room(0, 80 * GIB)


def test_a_failure_for_want_of_memory_says_what_would_fit():
    failed = ended(task_on(checkpoint(1), sheet()), Ending.FAILED, BUSY)
    told = explained(failed, "cuda", looks(0.5)).reason
    assert told.startswith("GPU 0: CUDA out of memory. Tried to allocate 2.00 GiB; 0.5 GiB of 80.0 GiB are free now")
    assert 'device = "cpu"' in told
    assert explained(replace(failed, reason=told), "cuda", looks(0.5)).reason == told, "said once"


@pytest.mark.parametrize(
    ("ending", "reason", "device"),
    [(Ending.FAILED, "KeyError", "cuda"), (Ending.OK, BUSY, "cuda"), (Ending.FAILED, BUSY, "cpu")],
)
def test_other_results_are_left_as_they_are(ending: Ending, reason: str, device: str):
    result = ended(task_on(checkpoint(1), sheet()), ending, reason)
    assert explained(result, device, lambda device: pytest.fail("looked")) is result


def test_without_a_gpu_nothing_is_said_of_one():
    assert what_would_fit(torch.device("cpu"), lambda device: pytest.fail("looked")) == (
        "measure on a larger device, or give the probe shorter examples"
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_gpu_is_asked_and_what_was_kept_is_given_back():
    room = look_at_cuda("cuda")
    assert room is not None
    assert 0 < room.free <= room.total
    held = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    taken = look_at_cuda("cuda")
    assert taken is not None
    assert taken.free <= room.free - (200 << 20)
    del held
    release("cuda")
    again = look_at_cuda("cuda")
    assert again is not None
    assert again.free >= taken.free + (200 << 20)
    assert look_at_cuda(f"cuda:{torch.cuda.device_count()}") is None
    with pytest.raises(NoRoom):
        choose_device("cuda", room.total, 0.1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_more_than_a_real_gpu_has_is_told_with_what_would_fit():
    with pytest.raises(torch.OutOfMemoryError) as lack:
        torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
    failed = ended(task_on(checkpoint(1), sheet()), Ending.FAILED, str(lack.value))
    assert "are free now" in explained(failed, "cuda").reason
