"""What is known from the results: a cache of the files in the results directory, each read once.

Nothing here is the truth. A ledger read cold from the same files equals one that followed them as they came, in
whatever order: of every fact, the row with the greatest `seq` counts.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sounding.keeping.results import ResultsDirectory
from sounding.keeping.rows import Row, read_attribute, read_checkpoint, read_outcome, read_stamp
from sounding.records import (
    SETTLED,
    Attribute,
    Checkpoint,
    Ending,
    Key,
    Outcome,
    Sighting,
    Stamp,
    State,
    Verdict,
)

RunName: TypeAlias = tuple[str, str]  # store, run


@dataclass(frozen=True, slots=True)
class Recorded:
    """The newest verdict on a path, and the checkpoint it was found to be."""

    seq: int
    run: RunName
    step: int | None
    path: str
    stamp: Stamp
    verdict: Verdict
    checkpoint: Checkpoint | None
    asked: frozenset[str]  # sources of attributes that were read with it


@dataclass(frozen=True, slots=True)
class Setting:
    """The version and options of a plugin that were last in force."""

    seq: int
    version: int
    options_hash: str


@dataclass
class Ledger:
    """Everything the daemon needs to know of the past."""

    results: ResultsDirectory
    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    keys: dict[RunName, set[Key]] = field(default_factory=dict)  # of the outcomes, by run
    endings: Counter[Ending] = field(default_factory=Counter)  # how many of the outcomes ended how
    unsettled: dict[Key, Outcome] = field(default_factory=dict)  # those of the outcomes that do not settle their key
    recorded: dict[str, Recorded] = field(default_factory=dict)  # by path
    history: dict[RunName, dict[str, Checkpoint]] = field(default_factory=dict)  # every complete one ever, by id
    attributes: dict[RunName, dict[tuple[str, str], tuple[int, Attribute]]] = field(default_factory=dict)
    settings: dict[str, Setting] = field(default_factory=dict)  # by plugin
    greatest_seq: int = 0
    listed: tuple[str, ...] = ()  # the files that count, all of them read
    _placed: dict[str, tuple[int, str]] = field(default_factory=dict)  # seq and path of a checkpoint, by its id
    _read: set[str] = field(default_factory=set)

    def refresh(self) -> set[RunName]:
        """Read the files that appeared since the last call; the runs they speak of."""
        names = self.results.files()
        new = [name for name in names if name not in self._read]
        changed: set[RunName] = set()
        for row in self.results.each_row(new, tuple(_TAKERS)):
            self.greatest_seq = max(self.greatest_seq, _seq(row))
            _TAKERS[str(row["record"])](self, row)
            if row["run"] is not None:
                changed.add(_run(row))
        self._read.update(new)
        self.listed = tuple(names)
        return changed

    def folded(self, name: str) -> None:
        """Take note of a file that only repeats rows already read."""
        self._read.add(name)
        self.listed = tuple(name for name in self.results.files() if name in self._read)

    def of_run(self, run: RunName) -> list[Outcome]:
        """The newest outcomes of all work on a run."""
        return [self.outcomes[key] for key in self.keys.get(run, ())]

    def recognise(self, sighting: Sighting) -> Recorded | None:
        """What was recorded of this very sighting: the same path with the same stamp."""
        recorded = self.recorded.get(sighting.path)
        return recorded if recorded is not None and recorded.stamp == sighting.stamp else None

    def run_attributes(self, run: RunName) -> Mapping[str, int | float | str]:
        """The run's attributes; where sources differ, the first source by name."""
        found: dict[str, int | float | str] = {}
        for (key, _), (_, attribute) in sorted(self.attributes.get(run, {}).items()):
            found.setdefault(key, _plain(attribute))
        return found

    def _take_outcome(self, row: Row) -> None:
        outcome = read_outcome(row)
        before = self.outcomes.get(outcome.key)
        if before is not None and before.seq > outcome.seq:
            return
        if before is not None:
            self.endings[before.ending] -= 1
        else:
            self.keys.setdefault(_run(row), set()).add(outcome.key)
        self.endings[outcome.ending] += 1
        self.outcomes[outcome.key] = self.unsettled[outcome.key] = outcome
        if outcome.ending in SETTLED:
            del self.unsettled[outcome.key]

    def _take_verdict(self, row: Row) -> None:
        verdict = Verdict(State(str(row["status"])), str(row["reason"]))
        checkpoint = read_checkpoint(row) if verdict.state is State.COMPLETE else None
        path = str(row["path"])
        if checkpoint is not None:
            place = (_seq(row), path)  # two names of one checkpoint may be recorded at once
            if place >= self._placed.get(checkpoint.checkpoint_id, place):
                self._placed[checkpoint.checkpoint_id] = place
                self.history.setdefault(_run(row), {})[checkpoint.checkpoint_id] = checkpoint
        before = self.recorded.get(path)
        if before is None or before.seq <= _seq(row):
            step: Any = row["step"]
            stamp = checkpoint.stamp if checkpoint is not None else read_stamp(str(row["stamp"]))
            asked = frozenset[str](json.loads(str(row["asked"] or "[]")))
            self.recorded[path] = Recorded(_seq(row), _run(row), step, path, stamp, verdict, checkpoint, asked)

    def _take_attribute(self, row: Row) -> None:
        attribute = read_attribute(row)
        known = self.attributes.setdefault(_run(row), {})
        before = known.get((attribute.key, attribute.source))
        if before is None or before[0] <= _seq(row):
            known[attribute.key, attribute.source] = (_seq(row), attribute)

    def _take_setting(self, row: Row) -> None:
        plugin, version = str(row["plugin"]), int(str(row["version"]))
        before = self.settings.get(plugin)
        if before is None or before.seq <= _seq(row):
            self.settings[plugin] = Setting(_seq(row), version, str(row["options_hash"]))


_TAKERS: Mapping[str, Callable[[Ledger, Row], None]] = {
    "outcome": Ledger._take_outcome,
    "verdict": Ledger._take_verdict,
    "attribute": Ledger._take_attribute,
    "setting": Ledger._take_setting,
}


def _run(row: Row) -> RunName:
    return str(row["store"]), str(row["run"])


def _seq(row: Row) -> int:
    return int(str(row["seq"]))


def _plain(attribute: Attribute) -> int | float | str:
    if attribute.number is None:
        return attribute.text
    return int(attribute.number) if attribute.number.is_integer() and "." not in attribute.text else attribute.number
