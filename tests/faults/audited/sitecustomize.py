"""Loaded by every Python process that finds this folder on its path: reports what it does below a directory.

Each event of the interpreter that concerns the directory AUDIT_BELOW becomes a line "KIND EVENT PATH" in AUDIT_LOG;
KIND is "harm" for whatever could change or block something there, else "read".
"""

import os
import sys

BELOW = os.environ.get("AUDIT_BELOW", "")
LOG = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if BELOW else -1
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
READING = ("open", "os.listdir", "os.scandir", "os.walk", "os.getxattr", "os.listxattr")
TWO_PATHS = ("os.rename", "os.link", "os.symlink", "shutil.copyfile", "shutil.move")


def paths(event: str, arguments: tuple[object, ...]) -> list[str]:
    """Absolute paths among the arguments; a lock's descriptor is followed to its file."""
    found = []
    for argument in arguments:
        if event.startswith("fcntl.") and isinstance(argument, int):
            try:
                found.append(os.readlink(f"/proc/self/fd/{argument}"))  # noqa: PTH115 - a hook must stay small
            except OSError:
                continue
        elif isinstance(argument, str | bytes | os.PathLike):
            found.append(os.path.abspath(os.fsdecode(argument)))  # noqa: PTH100 - links are not to be followed
    return found


def hook(event: str, arguments: tuple[object, ...]) -> None:
    """Report one event."""
    if not event.startswith(("open", "os.", "shutil.", "fcntl.", "tempfile.")):
        return
    for path in paths(event, arguments[:2] if event in TWO_PATHS else arguments[:1]):
        if path == BELOW or path.startswith(BELOW + "/"):
            flags = arguments[2] if event == "open" and len(arguments) > 2 else 0
            harmless = event in READING and not (isinstance(flags, int) and flags & WRITING)
            os.write(LOG, f"{'read' if harmless else 'harm'} {event} {path}\n".encode())


if BELOW:
    sys.addaudithook(hook)
