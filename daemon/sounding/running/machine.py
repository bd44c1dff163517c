"""Facts about this machine and its processes, by which a lock that was left behind is told from one that is held."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Machine:
    """A host, the life of its kernel, and when each of its processes began.

    `born` gives a text that two processes of one kernel share only if they are the same one, whatever their numbers;
    "" where there is no such process, or where it is over and only waits to be reaped.
    """

    host: str
    boot: str  # "" where the system does not tell
    born: Callable[[int], str]

    def same_kernel(self, host: str, boot: str) -> bool:
        """Whether that is this very kernel, also under the name of a container; by the host where boots are unknown."""
        return boot == self.boot if boot and self.boot else host == self.host


def this_machine() -> Machine:
    """The machine this process runs on."""
    boot = _BOOT.read_text(encoding="ascii").strip() if _BOOT.exists() else ""
    return Machine(socket.gethostname(), boot, born)


def born(pid: int) -> str:
    """When a process began, as its kernel counts; see Machine."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        stat = Path(f"/proc/{pid}/stat")
        # Ticks since boot do not move when somebody sets the clock; psutil's time of day may.
        return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else f"{process.create_time():.2f}"
    except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
        return ""
    except psutil.AccessDenied:
        return "unknown"
