"""Nouns as rows of the results table, plain dicts; `keeping.nouns` reads them back.

A row holds only the columns of its kind of record; the writer fills the others with NULL.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, fields
from datetime import datetime
from typing import TypeAlias

from sounding.records import (
    Attribute,
    Checkpoint,
    Ending,
    Examination,
    Fact,
    Finding,
    Job,
    Key,
    Outcome,
    PluginSheet,
    Progress,
    Reading,
    Sighting,
    Skip,
    Stamp,
    Subject,
    TaskResult,
    Verdict,
)

Row: TypeAlias = dict[str, object]

_WHOLE = frozenset({"step", "updates", "tokens", "examples"})  # progress kept as BIGINT
_FACTS = tuple(field.name for field in fields(Progress))


def result_rows(
    job: Job, result: TaskResult, sheet: PluginSheet, recorded_at: datetime, peak_memory_bytes: int
) -> list[Row]:
    """The outcome of one attempt, followed by a row for everything it found, in the order found.

    Only an attempt that ended `ok` or `skipped` may have found anything: findings of a failed attempt are dropped,
    because the next attempt would record them again.
    """
    common = {
        **_work_columns(job.seq, recorded_at, result.task.key, result.task.subject),
        "probe": result.probe,
        "seed": result.seed,
        "dtype": result.dtype,
        "device": result.device,
    }
    found = result.findings if result.ending in (Ending.OK, Ending.SKIPPED) else ()
    outcome: Row = {
        **common,
        "record": "outcome",
        "identity": _digest(*astuple(result.task.key)),
        "status": result.ending.value,
        "reason": result.reason,
        "attempt": result.task.attempt,
        "excused": result.task.excused,
        "options": _options_text(sheet),
        "wall_seconds": result.wall_seconds,
        "peak_memory_bytes": peak_memory_bytes,
        "code_digest": sheet.code_digest,
        "readings": sum(isinstance(finding, Reading) for finding in found),
    }
    units = {metric.name: metric.unit for metric in sheet.metrics}
    return [outcome, *({**common, **_finding_columns(finding, units)} for finding in found)]


def outcome_row(outcome: Outcome) -> Row:
    """An outcome that no worker lived to report, or that a person asked for."""
    return {
        **_work_columns(outcome.seq, outcome.recorded_at, outcome.key, outcome.subject),
        "record": "outcome",
        "identity": _digest(*astuple(outcome.key)),
        "status": outcome.ending.value,
        "reason": outcome.reason,
        "attempt": outcome.attempt,
        "excused": outcome.excused,
        "readings": 0,
    }


def verdict_row(
    sighting: Sighting,
    verdict: Verdict,
    checkpoint: Checkpoint | None,
    examination: Examination | None,
    recorded_at: datetime,
    seq: int,
) -> Row:
    """What is believed of a sighting; with its checkpoint's identity and progress once it is complete."""
    row: Row = {
        "record": "verdict",
        "identity": _digest(sighting.store, sighting.path, checkpoint.checkpoint_id if checkpoint else ""),
        "seq": seq,
        "recorded_at": recorded_at,
        "store": sighting.store,
        "run": sighting.run,
        "step": sighting.step,
        "path": sighting.path,
        "stamp": _stamp_text(sighting.stamp),
        "size_bytes": sum(file.size for file in sighting.stamp),
        "status": verdict.state.value,
        "reason": verdict.reason,
    }
    if examination is not None:
        asked = json.dumps(examination.asked) if examination.asked else None
        row |= {"format": examination.format, "fingerprint": examination.fingerprint, "asked": asked}
        row |= _progress_columns(examination.progress, sighting.step)
    if checkpoint is not None:
        row |= {
            "step": checkpoint.step,
            "checkpoint_id": checkpoint.checkpoint_id,
            "format": checkpoint.format,
            "fingerprint": checkpoint.fingerprint,
            "stamp": _stamp_text(checkpoint.stamp),
            "size_bytes": checkpoint.size_bytes,
            "ordinal": checkpoint.ordinal,
            "first_seen": checkpoint.first_seen,
            **_progress_columns(checkpoint.progress, checkpoint.step),
        }
    return row


def attribute_row(store: str, run: str, attribute: Attribute, seq: int, recorded_at: datetime) -> Row:
    """A property of a run; a later row of the same key and source replaces it."""
    values = asdict(attribute)
    return {"record": "attribute", "seq": seq, "recorded_at": recorded_at, "store": store, "run": run, **values}


def setting_row(sheet: PluginSheet, seq: int, recorded_at: datetime) -> Row:
    """The version and options of a plugin that are in force from now on."""
    return {
        "record": "setting",
        "seq": seq,
        "recorded_at": recorded_at,
        "plugin": sheet.name,
        "version": sheet.version,
        "options_hash": sheet.options_hash,
        "over": sheet.over,
        "options": _options_text(sheet),
        "code_digest": sheet.code_digest,
    }


def _work_columns(seq: int, recorded_at: datetime, key: Key, subject: Subject) -> Row:
    """The columns that name a piece of work; what was measured is told by the subject, never by the key's text."""
    work = {"plugin": key.plugin, "version": key.version, "options_hash": key.options_hash, "basis": key.basis}
    return {"seq": seq, "recorded_at": recorded_at, **asdict(subject), **work}


def _finding_columns(finding: Finding, units: Mapping[str, str]) -> Row:
    if isinstance(finding, Skip):
        return {"record": "skip", **asdict(finding)}
    row = asdict(finding)
    row["status"] = row.pop("quality")
    row["unit"] = units.get(finding.metric, "")
    return {"record": "reading" if isinstance(finding, Reading) else "curve", **row}


def _progress_columns(progress: Progress, step: int | None) -> Row:
    row: Row = {}
    for name in _FACTS:
        fact: Fact | None = getattr(progress, name)
        if fact is None:
            continue
        row[f"{name}_source"] = fact.source
        row[name] = _whole(fact.value) if name in _WHOLE else _real(fact.value)
    if step is not None:
        row["step"] = step
    return row


def _whole(value: float | str) -> int | None:
    """The value as a whole number, or None where it is not one: a count is never rounded in silence."""
    if not isinstance(value, int):
        number = _real(value)
        if number is None or not number.is_integer():
            return None
        value = int(number)
    return value if abs(value) < 2**63 else None  # the column holds no more


def _real(value: float | str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None  # the source is kept, and says where the value was that could not be read


def _digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def _options_text(sheet: PluginSheet) -> str:
    return json.dumps({option.name: option.value for option in sheet.options}, sort_keys=True, default=str)


def _stamp_text(stamp: Stamp) -> str:
    return json.dumps([[file.path, file.inode, file.size, file.mtime_ns] for file in stamp])
