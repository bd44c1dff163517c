"""A checkpoint, and what it tells of itself."""

from dataclasses import dataclass
from datetime import datetime

from sounding.records.seeing import Stamp, Verdict


@dataclass(frozen=True, slots=True)
class Fact:
    """A value found for a checkpoint, with the place it came from ("path", "iter_num", "optimizer.state.step" …)."""

    value: int | float | str
    source: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training had come, as far as the checkpoint tells."""

    step: Fact | None = None  # the ordering number of the run
    updates: Fact | None = None  # optimizer updates
    epoch: Fact | None = None
    tokens: Fact | None = None
    examples: Fact | None = None
    wall_time: Fact | None = None  # seconds of training, or seconds since 1970 where that is what was stored
    lr_stored: Fact | None = None  # the parameter group's value: the rate of the *next* update after a scheduler step
    lr_last: Fact | None = None  # the rate the last update used


@dataclass(frozen=True, slots=True)
class Attribute:
    """A named property of a run (learning rate, width, seed …) and where it was found."""

    key: str
    number: float | None
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Examination:
    """What the examiner says of a sighting: a verdict and, when complete, what the file tells of itself."""

    verdict: Verdict
    needs_quiet: bool = False  # the format's proof alone does not exclude a writer at work
    format: str = ""
    fingerprint: str = ""  # content-based, cheap; empty unless complete
    progress: Progress = Progress()
    attributes: tuple[Attribute, ...] = ()
    models: tuple[str, ...] = ()  # keys under which networks were found, the default first
    unwrapped: tuple[str, ...] = ()  # where the networks were taken from and what was removed from names, in words
    left_out: tuple[str, ...] = ()  # tensors of the networks that are not read, and why, in words
    problems: tuple[str, ...] = ()  # sources of attributes that could not be read, in words
    asked: tuple[str, ...] = ()  # sources of attributes that were read, or found missing


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: identity, place and progress. The same content at the same step is the same checkpoint."""

    checkpoint_id: str
    store: str
    run: str
    step: int
    path: str
    format: str
    fingerprint: str
    stamp: Stamp
    ordinal: int  # order in which the daemon first saw the run's checkpoints
    first_seen: datetime
    progress: Progress = Progress()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.stamp)
