"""What is known from the results: a cache of the files in the results directory, each read once.

Nothing here is the truth. A ledger read cold from the same files equals one that followed them as they came, in
whatever order: of every fact, the row with the greatest `seq` counts.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

from sounding.keeping.drawers import Drawers, RunName
from sounding.keeping.nouns import READ, read_attribute, read_checkpoint, read_outcome, read_stamp
from sounding.keeping.results import ResultsDirectory
from sounding.keeping.rows import Row
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

__all__ = ["Ledger", "Past", "Recorded", "RunName", "Setting"]


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


@dataclass(frozen=True, slots=True)
class _Told:
    """An attribute of a run, as one publication has it."""

    seq: int
    run: RunName
    attribute: Attribute


@dataclass(frozen=True, slots=True)
class _Put:
    """A plugin's setting, as one publication put it in force."""

    seq: int
    plugin: str
    setting: Setting


_Fact: TypeAlias = Outcome | Recorded | _Told | _Put

_AT_ONCE = 20_000  # facts: some ten megabytes
_NO_RUN: RunName = ("", "")


@dataclass(slots=True)
class Past:
    """What is known of one run, but for the work done on it."""

    recorded: dict[str, Recorded] = field(default_factory=dict)  # by path
    history: dict[str, Checkpoint] = field(default_factory=dict)  # every complete one ever, by id
    attributes: dict[tuple[str, str], tuple[int, Attribute]] = field(default_factory=dict)  # by key and source
    placed: dict[str, int] = field(default_factory=dict)  # the `seq` of what `history` has, by id


@dataclass
class Ledger:
    """Everything the daemon needs to know of the past; what is of a run is packed while nobody asks for it."""

    results: ResultsDirectory
    endings: Counter[Ending] = field(default_factory=Counter)  # how many of the newest outcomes ended how
    unsettled: dict[Key, Outcome] = field(default_factory=dict)  # those of them that do not settle their key
    settings: dict[str, Setting] = field(default_factory=dict)  # by plugin
    greatest_seq: int = 0
    listed: tuple[str, ...] = ()  # the files that count, all of them read
    _outcomes: Drawers[dict[Key, Outcome]] = field(default_factory=lambda: Drawers(dict))
    _pasts: Drawers[Past] = field(default_factory=lambda: Drawers(Past))
    _read: set[str] = field(default_factory=set)

    def refresh(self) -> set[RunName]:
        """Read the files that appeared since the last call; the runs they speak of."""
        names = self.results.files()
        new = [name for name in names if name not in self._read]
        changed: set[RunName] = set()
        rows = self.results.each_row(new, tuple(_READERS), READ)
        while facts := [_READERS[str(row["record"])](row) for row in islice(rows, _AT_ONCE)]:
            for fact in sorted(facts, key=_run_of):  # so that each drawer is opened once, in whatever order files are
                self.greatest_seq = max(self.greatest_seq, fact.seq)
                self._take(fact)
            changed.update(map(_run_of, facts))
        self._read.update(new)
        self.listed = tuple(names)
        return changed - {_NO_RUN}

    def folded(self, name: str) -> None:
        """Take note of a file that only repeats rows already read."""
        self._read.add(name)
        self.listed = tuple(name for name in self.results.files() if name in self._read)

    def runs(self) -> set[RunName]:
        """Every run of which anything is known."""
        return {*self._pasts, *self._outcomes}

    def past(self, run: RunName) -> Past:
        """What is known of a run's checkpoints and attributes; to be read, not to be changed."""
        return self._pasts.read(run)

    def outcomes(self, run: RunName) -> Mapping[Key, Outcome]:
        """The newest outcomes of all work on a run."""
        return self._outcomes.read(run)

    def recognise(self, sighting: Sighting) -> Recorded | None:
        """What was recorded of this very sighting: the same path, of the same run, with the same stamp."""
        recorded = self.past((sighting.store, sighting.run)).recorded.get(sighting.path)
        return recorded if recorded is not None and recorded.stamp == sighting.stamp else None

    def run_attributes(self, run: RunName) -> Mapping[str, int | float | str]:
        """The run's attributes; where sources differ, the first source by name."""
        found: dict[str, int | float | str] = {}
        for (key, _), (_, attribute) in sorted(self.past(run).attributes.items()):
            found.setdefault(key, _plain(attribute))
        return found

    def _take(self, fact: _Fact) -> None:
        match fact:
            case Outcome():
                self._take_outcome(fact)
            case Recorded():
                _take_verdict(self._pasts.open(fact.run), fact)
            case _Told():
                known, name = self._pasts.open(fact.run).attributes, (fact.attribute.key, fact.attribute.source)
                if name not in known or known[name][0] <= fact.seq:
                    known[name] = (fact.seq, fact.attribute)
            case _Put():
                if fact.plugin not in self.settings or self.settings[fact.plugin].seq <= fact.seq:
                    self.settings[fact.plugin] = fact.setting

    def _take_outcome(self, outcome: Outcome) -> None:
        known = self._outcomes.open(_run_of(outcome))
        before = known.get(outcome.key)
        if before is not None and before.seq > outcome.seq:
            return
        if before is not None:
            self.endings[before.ending] -= 1
        self.endings[outcome.ending] += 1
        known[outcome.key] = outcome
        if outcome.ending in SETTLED:
            self.unsettled.pop(outcome.key, None)
        else:
            self.unsettled[outcome.key] = outcome


def _take_verdict(known: Past, recorded: Recorded) -> None:
    checkpoint, path = recorded.checkpoint, recorded.path
    if checkpoint is not None:
        identity = checkpoint.checkpoint_id
        before = known.history.get(identity)  # two names of one checkpoint may be recorded at once
        if before is None or (recorded.seq, path) >= (known.placed[identity], before.path):
            known.history[identity], known.placed[identity] = checkpoint, recorded.seq
    if path not in known.recorded or known.recorded[path].seq <= recorded.seq:
        known.recorded[path] = recorded


def _read_recorded(row: Row) -> Recorded:
    verdict = Verdict(State(str(row["status"])), str(row["reason"]))
    checkpoint = read_checkpoint(row) if verdict.state is State.COMPLETE else None
    step: Any = row["step"]
    stamp = checkpoint.stamp if checkpoint is not None else read_stamp(str(row["stamp"]))
    asked = frozenset[str](json.loads(str(row["asked"] or "[]")))
    return Recorded(_seq(row), _run(row), step, str(row["path"]), stamp, verdict, checkpoint, asked)


def _read_setting(row: Row) -> _Put:
    seq = _seq(row)
    return _Put(seq, str(row["plugin"]), Setting(seq, int(str(row["version"])), str(row["options_hash"])))


_READERS: Mapping[str, Callable[[Row], _Fact]] = {
    "outcome": read_outcome,
    "verdict": _read_recorded,
    "attribute": lambda row: _Told(_seq(row), _run(row), read_attribute(row)),
    "setting": _read_setting,
}


def _run_of(fact: _Fact) -> RunName:
    match fact:
        case Outcome():
            return fact.subject.store, fact.subject.run
        case _Put():
            return _NO_RUN
        case _:
            return fact.run


def _run(row: Row) -> RunName:
    return str(row["store"]), str(row["run"])


def _seq(row: Row) -> int:
    return int(str(row["seq"]))


def _plain(attribute: Attribute) -> int | float | str:
    if attribute.number is None:
        return attribute.text
    return int(attribute.number) if attribute.number.is_integer() and "." not in attribute.text else attribute.number
