"""The nouns of sounding: frozen records that every other module speaks in.

This module imports nothing of ours and nothing heavy, so that any process (command line, daemon, worker) can
afford it. Records that cross a process boundary are picklable; times are UTC unless a name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeAlias

Plain: TypeAlias = bool | int | float | str | None
Over: TypeAlias = Literal["checkpoint", "pair", "run", "group"]
Against: TypeAlias = Literal["previous", "first", "last", "same_step"]
Cost: TypeAlias = Literal["weights", "data", "gradient", "curvature", "offline"]
Quality: TypeAlias = Literal["ok", "unconverged", "unresolved"]


# --- seeing ---------------------------------------------------------------------------------------------------------


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


# --- inside a checkpoint --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where a tensor's bytes lie: enough to map it, nothing of it loaded.

    `dtype` is torch's name without the prefix ("float32", "bfloat16"). `shape`, `stride` and `offset` count
    elements; `storage_start` and `storage_bytes` bound the storage within `file`. A reader has checked that the
    view stays inside the storage.
    """

    file: str  # absolute
    storage_start: int
    storage_bytes: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A block of a tensor that was written in several: its values, and where in the whole they begin."""

    start: tuple[int, ...]  # elements, in the grid of the whole
    ref: TensorRef  # its shape is the block's


@dataclass(frozen=True, slots=True)
class Pieces:
    """A tensor that lies in several places, as sharded writers leave it; row-major when put together.

    A reader has checked that the pieces cover `grid` exactly once.
    """

    dtype: str
    shape: tuple[int, ...]
    grid: tuple[int, ...]  # what the pieces count in: `shape`, or (elements,) where the flattened tensor was cut
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """The matrix `scale · left · right` (transposed where `turned`), of which a checkpoint keeps only the factors."""

    dtype: str
    shape: tuple[int, ...]
    left: TensorRef
    right: TensorRef
    scale: float
    turned: bool = False


Stored: TypeAlias = TensorRef | Pieces | Product  # a tensor in a checkpoint, however it was written


@dataclass(frozen=True, slots=True)
class Opaque:
    """An object in a checkpoint whose class is not ours to import; its plain state is kept, its code never runs."""

    class_name: str
    state: object  # nested plain values, TensorRefs and Opaques


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


# --- what a plugin yields -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """One number (or label) that a plugin found, with how good it is.

    `part` names what was measured inside the network ("" is the whole); `low` and `high` bound the value;
    `stderr` is its standard error; `quality` says whether the estimator converged.
    """

    metric: str
    value: float | None = None
    label: str | None = None
    part: str = ""
    split: str = ""
    kind: str = ""
    depth: int | None = None
    index: int | None = None
    group: str = ""
    low: float | None = None
    high: float | None = None
    stderr: float | None = None
    quality: Quality = "ok"


@dataclass(frozen=True, slots=True)
class Curve:
    """A function of one variable that a plugin found: a spectrum, a density, a slice. `x` and `y` have equal length."""

    metric: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    part: str = ""
    split: str = ""
    kind: str = ""
    depth: int | None = None
    quality: Quality = "ok"


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a plugin measured nothing, of the whole or of one part."""

    reason: str
    part: str = ""


Finding: TypeAlias = Reading | Curve | Skip


# --- deciding -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MetricSheet:
    """A metric as its plugin declares it."""

    name: str
    unit: str
    meaning: str
    source: str
    kind: Literal["scalar", "label", "curve"] = "scalar"


@dataclass(frozen=True, slots=True)
class OptionSheet:
    """An option of a plugin or pass: its type as written, its default, and the value in force."""

    name: str
    type: str
    default: object
    value: object


@dataclass(frozen=True, slots=True)
class PassSheet:
    """A pass that a plugin uses, directly or through another pass."""

    name: str
    version: int
    options_hash: str


@dataclass(frozen=True, slots=True)
class PluginSheet:
    """Everything the daemon and the command line know of a plugin without importing it."""

    name: str
    version: int
    over: Over
    against: Against | None
    cost: Cost
    summary: str
    origin: str  # "distribution: module"
    metrics: tuple[MetricSheet, ...]
    options: tuple[OptionSheet, ...]
    options_hash: str  # of the option values in force
    passes: tuple[PassSheet, ...]  # transitive, sorted by name
    needs_recipe: bool  # uses the model or the data
    code_digest: str  # of the syntax tree; an alarm, never a trigger


@dataclass(frozen=True, slots=True)
class Refusal:
    """A plugin (or pass, or module) that cannot be used, and why."""

    name: str
    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The result of discovery: usable plugins by name, and those refused."""

    plugins: Mapping[str, PluginSheet]
    refusals: tuple[Refusal, ...] = ()
    without: tuple[str, ...] = ()  # modules whose import hangs or kills, which no process must try again


@dataclass(frozen=True, slots=True)
class RecipeSheet:
    """What the operator's recipe promises for one run, without its objects; `error` is set when it cannot be used."""

    version: int = 0
    probe_hashes: Mapping[str, str] = field(default_factory=dict)  # probe name → hash of inputs, targets, ids …
    attributes: Mapping[str, int | float | str] = field(default_factory=dict)  # what the recipe knows of the run
    error: str = ""


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
