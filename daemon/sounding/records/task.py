"""Deciding: one plugin on one subject, what names it, and how an attempt at it ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sounding.records.finding import Finding
from sounding.records.terms import Cost, Over


@dataclass(frozen=True, slots=True)
class Subject:
    """The thing measured: a checkpoint, an ordered pair of checkpoints, or a run or group at a horizon.

    Of a run or group, `checkpoint_id` is the digest of exactly what entered (readings, checkpoints, log), `step` is
    its last checkpoint's, and `horizon` the last step or logged update that entered.
    """

    over: Over
    store: str
    run: str
    step: int
    checkpoint_id: str
    model: str = ""  # the operator's name for one of several networks; "" where there is only the default one
    other_run: str | None = None
    other_step: int | None = None
    other_checkpoint_id: str | None = None
    horizon: int | None = None
    members: int | None = None  # of a run or group: measurements or checkpoints that entered
    log_rows: int | None = None  # of a run or group: rows of the training log that were recorded

    @property
    def identity(self) -> str:
        """The part of a subject that makes two measurements the same."""
        extent = (self.horizon, self.members, self.log_rows)
        told = () if extent == (None, None, None) else ("" if each is None else str(each) for each in extent)
        return "|".join((self.over, self.checkpoint_id, self.other_checkpoint_id or "", self.model, *told))


@dataclass(frozen=True, slots=True)
class Key:
    """Names one piece of work; what is done is the set of keys with a settled outcome."""

    plugin: str
    version: int
    options_hash: str
    basis: str  # digest of the passes used, with probe hashes and recipe version where data or model are used
    subject: str  # Subject.identity


@dataclass(frozen=True, slots=True)
class Task:
    """One plugin on one subject, to be run for the `attempt`-th time (from 1)."""

    key: Key
    subject: Subject
    options: Mapping[str, object]
    attempt: int = 1
    excused: int = 0  # earlier attempts that ended through nobody's fault
    cost: Cost = "weights"  # of the plugin


class Ending(StrEnum):
    """How one attempt at a task ended."""

    OK = "ok"  # readings were recorded
    SKIPPED = "skipped"  # the plugin had a reason to measure nothing
    FAILED = "failed"  # the plugin or the recipe raised
    CRASHED = "crashed"  # the worker died under it
    TIMEOUT = "timeout"  # the deadline passed
    MEMORY = "memory"  # the memory limit was passed
    INTERRUPTED = "interrupted"  # the daemon itself died under it
    GONE = "gone"  # the checkpoint was deleted before it was read
    SUPERSEDED = "superseded"  # the checkpoint was overwritten while it was read
    REDO = "redo"  # a person asked for the work again; owes the key anew


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What came of one attempt at one task: the worker's answer, before it is written down."""

    task: Task
    ending: Ending
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    wall_seconds: float = 0.0
    probe: str = ""  # hash of the probe used, empty without one
    seed: int | None = None
    dtype: str = ""
    device: str = ""


SETTLED = frozenset({Ending.OK, Ending.SKIPPED})
BLAMELESS = frozenset({Ending.INTERRUPTED, Ending.GONE, Ending.SUPERSEDED})  # endings no plugin is to blame for


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, and why; append-only, the greatest `seq` per key counts."""

    key: Key
    subject: Subject
    ending: Ending
    reason: str
    attempt: int
    seq: int
    recorded_at: datetime
    excused: int = 0  # earlier attempts that ended through nobody's fault

    @property
    def mishaps(self) -> int:
        """Attempts that ended through nobody's fault, this one included."""
        return self.excused + (self.ending in BLAMELESS)

    @property
    def failures(self) -> int:
        """Attempts that a plugin or its recipe is to blame for, this one included where it was not settled."""
        return self.attempt - self.mishaps
