"""Nouns read back from rows of the results table, which `keeping.rows` made of them."""

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from sounding.records import Attribute, Checkpoint, Ending, Fact, FileStamp, Key, Outcome, Progress, Stamp, Subject

_FACTS = tuple(field.name for field in fields(Progress))
_SUBJECT = tuple(field.name for field in fields(Subject))

# The columns that the nouns below are read from; those of readings, and what is told of outcomes, are not.
READ = (
    "record", "seq", "recorded_at", *_SUBJECT, "plugin", "version", "options_hash",
    "basis", "status", "reason", "attempt", "excused", "path", "format", "fingerprint", "stamp", "asked", "ordinal",
    "first_seen", *_FACTS[1:], *(f"{fact}_source" for fact in _FACTS),  # `step` is the subject's
    "key", "number", "text", "source",
)  # fmt: skip


def read_outcome(row: Mapping[str, Any]) -> Outcome:
    """The outcome that `result_rows` or `outcome_row` wrote."""
    subject = Subject(*[row[name] for name in _SUBJECT])
    key = Key(row["plugin"], row["version"], row["options_hash"], row["basis"], subject.identity)
    ending, at = Ending(row["status"]), _aware(row["recorded_at"])
    return Outcome(key, subject, ending, row["reason"], row["attempt"], row["seq"], at, row["excused"] or 0)


def read_checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of a `complete` verdict."""
    return Checkpoint(
        row["checkpoint_id"],
        row["store"],
        row["run"],
        row["step"],
        row["path"],
        row["format"],
        row["fingerprint"],
        read_stamp(row["stamp"]),
        row["ordinal"],
        _aware(row["first_seen"]),
        _read_progress(row),
    )


def read_attribute(row: Mapping[str, Any]) -> Attribute:
    """The attribute that `attribute_row` wrote."""
    return Attribute(row["key"], row["number"], row["text"], row["source"])


def read_stamp(text: str) -> Stamp:
    """The stamp of a verdict row."""
    return tuple(FileStamp(sys.intern(path), *rest) for path, *rest in json.loads(text))


def _read_progress(row: Mapping[str, Any]) -> Progress:
    facts: dict[str, Fact] = {}
    for name in _FACTS:
        if row[f"{name}_source"] is not None and row[name] is not None:
            facts[name] = Fact(row[name], row[f"{name}_source"])
    return Progress(**facts)


def _aware(moment: datetime) -> datetime:
    """Times are kept as UTC without a zone, and handed out with one."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
