"""Seeing: what a listing of a store shows, and what is believed of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


@dataclass(frozen=True, slots=True, order=True)
class FileStamp:
    """What `stat` says of one file; two equal stamps are taken for the same bytes, two different ones never are."""

    path: str  # relative to the checkpoint's path; "" for a checkpoint that is a single file
    inode: int
    size: int
    mtime_ns: int


Stamp: TypeAlias = tuple[FileStamp, ...]  # sorted by path


@dataclass(frozen=True, slots=True)
class Sighting:
    """A path that looks like a checkpoint, as one listing of its store saw it."""

    store: str
    run: str
    path: str  # absolute
    step: int | None  # from the path pattern; None when the pattern has no step
    parts: Mapping[str, int | float | str]  # every named part of the pattern, typed, `step` and `run` excluded
    stamp: Stamp


class State(StrEnum):
    """Where a sighting stands on its way to being measured."""

    COMPLETE = "complete"  # proven whole from its bytes
    PENDING = "pending"  # may still become whole
    ABANDONED = "abandoned"  # incomplete, and the run has gone on past it; revoked if it becomes whole after all
    BROKEN = "broken"  # whole in size, yet cannot be a checkpoint


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is believed of a sighting, and why, in words for a person."""

    state: State
    reason: str
