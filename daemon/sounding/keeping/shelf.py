"""A directory of immutable Parquet files: published by a rename, folded when many, never overwritten.

A name there is never used twice, and what a name holds never changes.
"""

import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow.parquet as pq

from sounding.keeping.folding import LOOSE, Layout, choose, fold_files
from sounding.keeping.listing import REPLACES, Fold, fold_name, fold_of, is_fold, job_files, live_names, newest_seq

At: TypeAlias = Callable[[str], None]

GRACE = timedelta(minutes=10)  # how long a query that listed the directory may still read a replaced file


def tmp_name(epoch: str, seq: int) -> str:
    """A name under `tmp/` that says who is writing: host, process and the daemon's epoch, then the job."""
    return f"{socket.gethostname()}-{os.getpid()}-{epoch}-{seq:012d}.parquet"


def fsync(path: Path) -> None:
    """Force a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[None]:
    """Leave nothing under the name when writing it fails: what is half written would keep a full disk full.

    What DuckDB says of a disk is raised as the OSError that it is.
    """
    try:
        yield
    except (OSError, duckdb.Error) as error:
        with suppress(OSError):  # the disk may have become read-only; the next start sweeps
            path.unlink(missing_ok=True)
        shutil.rmtree(f"{path}.spill", ignore_errors=True)
        if isinstance(error, duckdb.Error):
            raise OSError(f"{path}: {' '.join(str(error).split())}") from error
        raise


@dataclass(frozen=True)
class Shelf:
    """The files of one table; `at` is told every step that a kill could fall between."""

    room: Path
    tmp: Path  # on the same file system
    layout: Layout
    at: At = lambda point: None
    grace: timedelta = GRACE
    most_loose: int = LOOSE  # files beyond this many are folded
    epoch: str = "none"  # of the daemon, in names under `tmp`
    _folds: dict[str, Fold] = field(default_factory=dict, compare=False, repr=False)  # immutable, so read once

    def publish(self, tmp: Path, seq: int) -> str:
        """Give a written file its place and its name, which is returned; from then on every reader sees it.

        Raises OSError when that is refused; then nothing has happened.
        """
        name = f"{seq:012d}-{secrets.token_hex(4)}.parquet"
        self.at("before_rename")
        tmp.rename(self.room / name)
        with suppress(OSError):  # readers see it already: to fail now would be to do the work twice
            fsync(self.room)
        self.at("after_rename")
        return name

    def files(self) -> list[str]:
        """Names that count at this moment, sorted; those that a folded file replaces are left out."""
        names, folds = self._list()
        return live_names(names, folds)

    def fold(self, now_utc: datetime) -> str | None:
        """Make one file of many where there are too many; the name of the new file, or None when there was no need."""
        start = time.monotonic()
        names, folds = self._list()
        sizes = {name: (self.room / name).stat().st_size for name in live_names(names, folds)}
        chosen = choose(sizes, self.most_loose)
        if not chosen:
            return None
        inherited = {name for fold in folds if fold.name in chosen for name in fold.replaces}
        replaces = sorted((inherited & set(names)) | set(chosen))
        seq = max(newest_seq(name) for name in chosen)
        tmp = self.tmp / f"{tmp_name(self.epoch, seq)}.fold"
        self.at("before_fold")
        with whole_or_nothing(tmp):
            fold_files([self.room / name for name in chosen], tmp, replaces, self.layout)
            fsync(tmp)
            self.at("fold_written")
            # The grace of what it replaces begins now, not when folding began; a second more, as names hold seconds.
            name = fold_name(seq, now_utc + timedelta(seconds=time.monotonic() - start + 1))
            tmp.rename(self.room / name)
        with suppress(OSError):  # as in `publish`
            fsync(self.room)
        self.at("fold_renamed")
        return name

    def delete_replaced(self, now_utc: datetime) -> list[str]:
        """Delete files whose replacement has been there for longer than the grace; returns their names, in order.

        Oldest first: a file that a folded file replaces is deleted before that folded file.
        """
        names, folds = self._list()
        due = {name for fold in folds if now_utc - fold.published >= self.grace for name in fold.replaces}
        ordered = sorted(due & set(names), key=lambda name: (is_fold(name), name))
        for name in ordered:
            self.at("before_unlink")
            (self.room / name).unlink()
            self.at("after_unlink")
        if ordered:
            fsync(self.room)
        return ordered

    def _list(self) -> tuple[list[str], list[Fold]]:
        names = job_files(self.room)
        for name in names:
            if is_fold(name) and name not in self._folds:
                told = pq.read_metadata(self.room / name).metadata
                self._folds[name] = fold_of(name, json.loads(told[REPLACES.encode()]))
        return names, [self._folds[name] for name in names if is_fold(name)]
