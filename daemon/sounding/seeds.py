"""Random numbers that depend on what is measured and by whom, never on what ran before."""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class Seeded:
    """The seed in force, and, afterwards, whether anything was drawn from it."""

    seed: int
    used: bool = False


@contextlib.contextmanager
def seeded(*names: str) -> Iterator[Seeded]:
    """Seed Python's, numpy's and torch's generators by `names`; their states from before come back afterwards."""
    digest = hashlib.blake2b("|".join(names).encode(), digest_size=4).digest()
    state = Seeded(int.from_bytes(digest, "big") >> 1)
    with preserved():
        random.seed(state.seed)
        np.random.seed(state.seed)
        torch.manual_seed(state.seed)
        fresh = _States()
        try:
            yield state
        finally:
            state.used = not fresh.same()


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn inside, the generators go on afterwards as if nothing had been."""
    states = _States()
    try:
        yield
    finally:
        states.restore()


class _States:
    """The states of all generators: Python's, numpy's, torch's, and those of CUDA devices in use."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy: Any = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda: list[torch.Tensor] = torch.cuda.get_rng_state_all() if _cuda_in_use() else []

    def restore(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        for device, state in enumerate(self._cuda):
            torch.cuda.set_rng_state(state, device)

    def same(self) -> bool:
        now = _States()
        same_numpy = all(np.array_equal(a, b) for a, b in zip(self._numpy, now._numpy, strict=True))
        same_cuda = all(torch.equal(a, b) for a, b in zip(self._cuda, now._cuda, strict=False))
        return self._python == now._python and same_numpy and torch.equal(self._torch, now._torch) and same_cuda


def _cuda_in_use() -> bool:
    # Asking a device for its state would initialise CUDA, which a process that only reads weights never needs.
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
