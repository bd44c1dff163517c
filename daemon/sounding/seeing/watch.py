"""The bell: file events wake the loop and name directories to look at; they prove nothing and may all be lost."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

# The default set of events overflows watchdog's own queue when thousands of directories appear at once.
_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
]


class Bell(FileSystemEventHandler):
    """Rings when something happens below a watched path; `fileno` becomes readable, so a loop can wait on it."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._lock = threading.Lock()
        self._touched: set[str] = set()
        self._lost = False

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._reader

    def ring(self, touched: Iterable[str] = (), *, lost: bool = False) -> None:
        """Wake whoever waits; `touched` are directories worth listing again, `lost` says that it may be any."""
        with self._lock:
            self._touched.update(touched)
            self._lost |= lost
        with contextlib.suppress(BlockingIOError):  # the pipe is full of rings already
            os.write(self._writer, b"!")

    def answer(self) -> frozenset[str]:
        """Stop ringing; the directories named since the last answer."""
        with contextlib.suppress(BlockingIOError):  # silence
            while os.read(self._reader, 4096):
                continue
        with self._lock:
            touched, self._touched = frozenset(self._touched), set()
            return touched

    def has_lost(self) -> bool:
        """Whether events were lost since this was last asked."""
        with self._lock:
            lost, self._lost = self._lost, False
            return lost

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog's thread."""
        paths = [os.fsdecode(path) for path in (event.src_path, event.dest_path) if path]
        self.ring({path if event.is_directory else "" for path in paths} | {str(Path(path).parent) for path in paths})

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._reader)
        os.close(self._writer)


class _Overheard(logging.Handler):
    """Hears what watchdog says of the kernel's queue overflowing, which it tells nobody but its log."""

    def __init__(self, bell: Bell) -> None:
        super().__init__(logging.WARNING)
        self._bell = bell

    def emit(self, record: logging.LogRecord) -> None:
        """Whatever watchdog warns of, events may have been lost."""
        self._bell.ring(lost=True)


class Watch:
    """Subscribes to events below each store, as far as the system grants it."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._overheard = _Overheard(bell)
        logging.getLogger("watchdog").addHandler(self._overheard)
        self._observer: BaseObserver | None = None
        self._watched: set[Path] = set()
        self._refused: dict[Path, str] = {}  # trying again would walk the whole tree again

    def add(self, path: Path) -> str:
        """Watch a store; returns why there are no events for it, or nothing. Safe to call again."""
        if path in self._refused or path in self._watched or not os.path.isdir(path):  # noqa: PTH112 - never raises
            return self._refused.get(path, "")
        try:
            if self._observer is None:
                self._observer = Observer()
                self._observer.start()
            self._observer.schedule(self._bell, str(path), recursive=True, event_filter=_EVENTS)
        except OSError as error:
            reason = f"no file events for {path} ({error.strerror or error}); it is scanned on a timer instead"
            self._refused[path] = reason
            return reason
        self._watched.add(path)
        return ""

    def close(self) -> None:
        """End all subscriptions."""
        logging.getLogger("watchdog").removeHandler(self._overheard)
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
