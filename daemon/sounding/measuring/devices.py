"""Which device a job runs on: a GPU only where what else runs on it has left head-room.

Training comes first. A job that is refused here has done nothing: no attempt is counted, and it is asked again later.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from sounding.errors import SoundingError
from sounding.records import Ending, TaskResult

_LEAST_BYTES = 1 << 30  # what a job is taken to need at least: the device's own state, and a batch
_ADVICE = "or a probe of shorter examples"
_COPIES = 4  # weights, gradients and activations, in multiples of the checkpoint's size


@dataclass(frozen=True, slots=True)
class Room:
    """Memory of a device at one moment, in bytes, by all processes that use it."""

    free: int
    total: int


Look: TypeAlias = Callable[[str], Room | None]  # None where there is no such device


class NoRoom(SoundingError):
    """The device named by the operator has not enough memory left beside what else runs on it."""


def look_at_cuda(device: str) -> Room | None:
    """The memory of a CUDA device; nothing is free on one that is too full to be asked."""
    if not torch.cuda.is_available():
        return None
    index = torch.device(device).index
    if index is not None and index >= torch.cuda.device_count():
        return None
    try:
        return Room(*torch.cuda.mem_get_info(index))
    except torch.OutOfMemoryError:  # asking takes memory too
        return Room(0, torch.cuda.get_device_properties(index or 0).total_memory)


def choose_device(wanted: str, checkpoint_bytes: int, headroom: float, look: Look = look_at_cuda) -> str:
    """The device for checkpoints of so many bytes; `headroom` is the share of its memory that must stay free.

    "auto" takes a GPU with room, else Apple's, else the CPU. Raises NoRoom where the operator named a GPU that has none
    left, and SoundingError where there is no such GPU.
    """
    if wanted != "auto" and not wanted.startswith("cuda"):
        return wanted
    device = "cuda" if wanted == "auto" else wanted
    room, need = look(device), max(_LEAST_BYTES, _COPIES * checkpoint_bytes)
    if room is not None and room.free - need >= headroom * room.total:
        return device
    if wanted == "auto":
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if room is None:
        raise SoundingError(f'device = "{wanted}": torch finds no such device here; [daemon] device names another.')
    raise NoRoom(
        f"{device} has {_gib(room.free)} of {_gib(room.total)} free; a job needs {_gib(need)}, and {headroom:.0%} are "
        f"left to others (gpu_headroom); it is begun when there is room"
    )


def what_would_fit(device: torch.device, look: Look = look_at_cuda) -> str:
    """What to do about a job that did not fit, in words: what was free there, and where it would fit."""
    if device.type != "cuda":
        return "measure on a larger device, or give the probe shorter examples"
    room = look(str(device))
    free = "" if room is None else f"{_gib(room.free)} of {_gib(room.total)} are free now; "
    return f'{free}a device with more free memory would do, or the CPU ([daemon] device = "cpu"), {_ADVICE}'


def explained(result: TaskResult, device: str, look: Look = look_at_cuda) -> TaskResult:
    """A failure for want of a GPU's memory, with what would fit; any other result as it is."""
    if not device.startswith("cuda") or result.ending is not Ending.FAILED or "out of memory" not in result.reason:
        return result
    if _ADVICE in result.reason:
        return result  # the traversal has said so
    return replace(result, reason=f"{result.reason.rstrip('.')}; {what_would_fit(torch.device(device), look)}")


def release(device: str) -> None:
    """Give memory that is only kept for later back to whoever else needs the device."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f} GiB"
