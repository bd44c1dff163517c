"""Which device a job runs on: an accelerator only where training has left head-room."""

import torch

_HEADROOM_BYTES = 1 << 30
_HEADROOM_COPIES = 4  # weights, gradients and activations, in multiples of the checkpoint's size


def choose_device(wanted: str, checkpoint_bytes: int) -> str:
    """The device for a checkpoint; "auto" takes an accelerator with memory to spare, else the CPU.

    A device named by the operator is taken as it is.
    """
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return "cuda" if free >= max(_HEADROOM_BYTES, _HEADROOM_COPIES * checkpoint_bytes) else "cpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"
