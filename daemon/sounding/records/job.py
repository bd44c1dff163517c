"""Jobs: tasks that share one opened checkpoint, and what is handed to a worker with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sounding.records.checkpoint import Checkpoint
from sounding.records.sheets import RecipeSheet
from sounding.records.task import Task


@dataclass(frozen=True, slots=True)
class LogState:
    """How much of a run's training log is recorded."""

    rows: int = 0
    last: int | None = None  # the last update that has a row
    chain: str = ""  # names the attempts that the rows belong to


@dataclass(frozen=True, slots=True)
class Ground:
    """A setting under which readings in force were made, for one network."""

    plugin: str
    version: int
    options_hash: str
    basis: str
    model: str


@dataclass(frozen=True, slots=True)
class RunInput:
    """What a job over a run may read."""

    results: str  # directory
    files: tuple[str, ...]  # names under its `jobs/`, exactly those that the plan was made from
    grounds: tuple[Ground, ...]  # which of the readings in them are in force
    checkpoints: tuple[Checkpoint, ...]  # that can be read, ascending


@dataclass(frozen=True, slots=True)
class Hold:
    """An order to copy a job's checkpoints before they are read, as they may vanish."""

    room: str  # directory for the copies; the job makes and deletes it
    most_bytes: int
    keep_free_bytes: int  # on the disk of the copies


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a checkpoint that is read in its place, or why there is none."""

    path: str = ""  # empty: there is none
    only_weights: bool = False  # files of the optimizer's state were left out
    reason: str = ""  # why there is none
    is_lost: bool = False  # the checkpoint itself could not be read: there is nothing to measure


@dataclass(frozen=True, slots=True)
class Job:
    """Tasks that share one opened checkpoint; the unit of execution and of publication (one file of results)."""

    seq: int  # monotonic over the life of a results directory
    checkpoint: Checkpoint
    tasks: tuple[Task, ...]
    others: tuple[Checkpoint, ...] = ()  # the second checkpoints of pair tasks
    attributes: Mapping[str, int | float | str] = field(default_factory=dict)  # the run's, for the recipe
    # Those of second checkpoints that are of another run, by checkpoint id.
    other_attributes: Mapping[str, Mapping[str, int | float | str]] = field(default_factory=dict)
    recipe: str | None = None  # absolute path
    recipe_sheet: RecipeSheet | None = None  # what the plan was made with; the worker refuses to measure with another
    passes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # settings by pass name
    models: Mapping[str, str] = field(default_factory=dict)  # key of a network in the checkpoint, by the model's name
    device: str = "cpu"
    headroom: float = 0.1  # share of a GPU's memory that is left to others
    run_input: RunInput | None = None  # of tasks over the run as a whole, which are in a job of their own
    hold: Hold | None = None
    copies: Mapping[str, Copy] = field(default_factory=dict)  # what came of the hold, by checkpoint id

    @property
    def sources(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that may be read; a job over a run only goes by its `checkpoint`, and may read others."""
        return (self.checkpoint, *self.others) if self.run_input is None else self.run_input.checkpoints
