"""Logs of lines, read on from where they were left: CSV and JSON lines. A line counts once its end is written."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, TypeAlias

from sounding.logs.entries import Entry, LogError, entry_of

BLOCK = 1 << 20  # bytes read at once
LONGEST = 8 << 20  # bytes of a line
_DELIMITERS = (",", "\t", ";")


class Spot(NamedTuple):
    """How far a log was read: whole entries up to `offset` bytes, and the header they stand under."""

    offset: int = 0
    header: tuple[str, ...] = ()  # the delimiter, then the columns


Read: TypeAlias = tuple[
    Spot, Entry | str | None
]  # where it ends, and the entry; None for none; a text says what is wrong


def read_csv(file: BinaryIO, spot: Spot, step_keys: Sequence[str]) -> Iterator[Read]:
    """The entries of a CSV file after `spot`; empty cells say nothing, and a line of names is a new header.

    Raises LogError where the header names no step.
    """
    header = spot.header
    for offset, line in _lines(file, spot.offset):
        cells = _cells(line, header[0] if header else ",")
        if not cells:
            continue
        if not header or _is_header(cells, step_keys):
            header = _header(line, step_keys)
            yield Spot(offset, header), None
            continue
        names = header[1:]
        if len(cells) != len(names):
            # Two writers at once, or one that was cut short and went on in the same line.
            yield Spot(offset, header), f"{len(cells)} cells under {len(names)} columns, before byte {offset}"
            continue
        found = {name: value for name, cell in zip(names, cells, strict=True) if (value := _number(cell)) is not None}
        yield Spot(offset, header), entry_of(found, step_keys)


def read_jsonl(file: BinaryIO, spot: Spot, step_keys: Sequence[str]) -> Iterator[Read]:
    """The entries of a file with one JSON object a line, after `spot`; lines that hold none are passed over."""
    for offset, line in _lines(file, spot.offset):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            yield Spot(offset), f"a line that is not JSON, before byte {offset}"
            continue
        yield Spot(offset), entry_of(found, step_keys) if isinstance(found, dict) else None


def _lines(file: BinaryIO, offset: int) -> Iterator[tuple[int, str]]:
    """Whole lines after an offset, each with the offset of its end, read in blocks."""
    file.seek(offset)
    rest = b""
    while block := file.read(BLOCK):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            offset += len(line) + 1
            yield offset, line.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r")
        if len(rest) > LONGEST:
            raise LogError(f"the line at byte {offset} is longer than {LONGEST >> 20} MiB")


def _header(line: str, step_keys: Sequence[str]) -> tuple[str, ...]:
    delimiter = max(_DELIMITERS, key=line.count)
    names = [name.strip() for name in _cells(line, delimiter)]
    if not set(names) & set(step_keys):
        wanted = ", ".join(step_keys)
        raise LogError(
            f"no column tells the update: found {', '.join(names)[:200]}; expected one of {wanted}. "
            'Name it: logs = [{ path = "…", updates = "…" }]'
        )
    return (delimiter, *names)


def _is_header(cells: Sequence[str], step_keys: Sequence[str]) -> bool:
    """Whether a line further down names columns again, as restarted trainers write it."""
    return any(cell.strip() in step_keys for cell in cells) and all(_number(cell) is None for cell in cells)


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
