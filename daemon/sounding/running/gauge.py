"""How much memory a process has of its own; mapped checkpoint files do not count."""

import os
import threading
from types import TracebackType
from typing import Self

import psutil

_EVERY_SECONDS = 0.02


def anonymous_bytes(pid: int) -> int:
    """Resident memory less what is shared with files, where the system tells; 0 once the process has ended."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


class Gauge:
    """Watches this process's own memory while a `with` block runs; `peak_bytes` is the highest it saw."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        pid = os.getpid()
        while True:
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes(pid))
            if self._done.wait(_EVERY_SECONDS):
                self.peak_bytes = max(self.peak_bytes, anonymous_bytes(pid))
                return
