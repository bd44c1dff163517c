"""What children are told to do in tests of their parent; each is named as "running.deeds:…"."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from sounding.errors import SoundingError


def add(one: int, other: int) -> int:
    return one + other


def pid() -> int:
    return os.getpid()


def circumstances() -> dict[str, object]:
    import torch

    return {
        "nice": os.nice(0),
        "group": os.getpgid(0),
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    }


def raises() -> None:
    raise ValueError("seven")


def refuses() -> None:
    raise SoundingError("write the recipe first.")


def segfaults() -> None:
    ctypes.string_at(0)


def exits(status: int) -> None:
    os._exit(status)


def leaves() -> None:
    sys.exit(3)


def loops(started: str) -> None:
    Path(started).touch()
    while True:
        pass


def hoards() -> None:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1 << 20) * 8))


def answers_what_nobody_can_carry() -> object:
    return lambda: None


def has_a_child(pid_file: str) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(pid_file).write_text(str(sleeper.pid))
    while True:
        pass
